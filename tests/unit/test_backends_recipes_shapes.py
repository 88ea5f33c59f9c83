"""A model's shape from its config.json, and what is refused rather than guessed."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from backends.recipes.shapes import ShapeError, shape_of, shape_of_size

SHIPPED = Path(__file__).resolve().parents[2] / "backends" / "emulator" / "model"


def test_the_shipped_model_has_the_parameters_of_its_weights() -> None:
    """Qwen3 has two norms of head_dim more in each layer than a Llama; they are the whole difference."""
    shape = shape_of(SHIPPED)
    head = (SHIPPED / "model.safetensors").open("rb")
    with head:
        tensors = orjson.loads(head.read(int.from_bytes(head.read(8), "little")))
    sizes = [_product(one["shape"]) for name, one in tensors.items() if name != "__metadata__"]
    assert sum(sizes) - shape.parameters == shape.layers * 2 * shape.head_dim


def _product(sizes: list[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"num_experts": 128}, "mixture of experts"),
        ({"kv_lora_rank": 512}, "MLA"),
        ({"hidden_size": None}, "hidden_size must be a whole number"),
        ({"num_hidden_layers": "6"}, "num_hidden_layers must be"),
        ({"vocab_size": True}, "vocab_size must be"),
    ],
)
def test_what_the_roofline_does_not_know_is_refused(tmp_path: Path, changed: dict[str, object], told: str) -> None:
    config = orjson.loads((SHIPPED / "config.json").read_bytes()) | changed
    (tmp_path / "config.json").write_bytes(orjson.dumps(config))
    with pytest.raises(ShapeError, match=told):
        shape_of(tmp_path)


def test_a_folder_without_a_readable_config(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="no such file"):
        shape_of(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ShapeError, match="cannot be read as JSON"):
        shape_of(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ShapeError, match="no table"):
        shape_of(tmp_path)


def test_a_vision_models_language_part(tmp_path: Path) -> None:
    config = orjson.loads((SHIPPED / "config.json").read_bytes())
    (tmp_path / "config.json").write_bytes(orjson.dumps({"text_config": config, "vision_config": {}}))
    assert shape_of(tmp_path).layers == shape_of(SHIPPED).layers


def test_sizes() -> None:
    assert shape_of_size(" 70b ").name == "Llama-3.1-70B"
    with pytest.raises(ShapeError, match="nearest is 32B"):
        shape_of_size("30B")
    with pytest.raises(ShapeError, match=r"config\.json"):
        shape_of_size("large")
