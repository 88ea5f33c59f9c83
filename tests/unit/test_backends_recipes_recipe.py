"""What a recipe file may say, how it is refused, and that its words are the emulator's."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from backends.emulator import recipes as emulator
from backends.recipes.formats import FORMATS, ActivationFormat, ActivationPer, KvFormat, KvPer, WeightFormat, WeightPer
from backends.recipes.reading import RecipeFileError, load_recipe, parent_of, parse_recipe
from backends.recipes.written import as_toml
from tests.unit.recipe_rig import AWQ, recipe

WHOLE = """\
name = "int4"
workload = "agent"
hardware = "H200"
gpus = 2
context_tokens = 16384
concurrency = 32
attention_backend = "FLASH_ATTN"
parent = "bf16.toml"
[model]
name = "meta-llama/Llama-3.1-70B-Instruct"
size = "70b"
[weights]
format = "int4"
method = "awq"
group_size = 64
ignored_layers = ["lm_head", "model.layers.0.mlp.down_proj"]
[activations]
format = "bf16"
[kv_cache]
format = "fp8-e4m3"
per = "head"
skipped_layers = ["0", "sliding_window"]
"""


def _file(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    read = load_recipe(_file(tmp_path, WHOLE))
    assert read.axes() == {
        "weights": "int4:group64 by awq",
        "activations": "bf16",
        "kv_cache": "fp8-e4m3:head, all but layers 0 sliding_window",
    }
    assert (read.hardware, read.gpus, read.shape().layers) == ("h200", 2, 80)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    read = load_recipe(_file(tmp_path, WHOLE))
    again = load_recipe(_file(tmp_path, as_toml(read, ["why: \u00e9\nand more"]), "again.toml"))
    assert again == read
    odd = recipe(name='a "quoted" \\ name\n\x7f\u00e9')
    assert load_recipe(_file(tmp_path, as_toml(odd), "odd.toml")) == odd


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("group_size = 64", "groupsize = 64", 'weights.groupsize: unknown key (did you mean "group_size"?)'),
        ('hardware = "H200"', 'hardware = "H20"', 'did you mean "h200"?'),
        ('size = "70b"', 'size = "71b"', "the nearest is 70B"),
        ('size = "70b"', "", "give one of size"),
        ('format = "int4"', 'format = "int5"', 'weights.format: there is no "int5"; did you mean "int'),
        ('workload = "agent"', 'workload = "agents"', 'did you mean "agent"?'),
        ("context_tokens = 16384", "", "context_tokens: missing; the longest conversation served"),
        ("concurrency = 32", "concurrency = 0", "concurrency: "),
        ("concurrency = 32", 'concurrency = "32"', "concurrency: "),
        ("group_size = 64", 'per = "channel"\ngroup_size = 64', "group_size goes with per"),
        ('method = "awq"', 'method = "none"', "int4 needs a method"),
        ('format = "int4"', 'format = "int8"', "AWQ is an INT4 method"),
        ('format = "int4"', 'format = "bf16"', "group_size goes with"),
        ('method = "awq"\ngroup_size = 64', 'method = "gguf"', 'K-quants, and only they, are made by "gguf"'),
        ('format = "bf16"', 'format = "bf16"\nper = "token"', "has no scales"),
        ('format = "bf16"', 'format = "mxfp4"\nper = "token"', "brings its own block scales"),
        ('per = "head"', 'per = "heads"', 'kv_cache.per: there is no "heads"; did you mean "head"?'),
        ('["0", "sliding_window"]', '["0-3"]', 'vLLM takes a layer\'s index or "sliding_window"'),
        ('format = "fp8-e4m3"\nper = "head"', 'format = "int8"\nper = "one"', "scale 1.0 is for fp8"),
        ('format = "fp8-e4m3"\nper = "head"', 'format = "bf16"', "skipped_layers does nothing"),
        ('per = "head"', 'per = "head"\ngroup_size = 4', "kv_cache.group_size: unknown key (it belongs in [weights])"),
        ("gpus = 2", "gpus =", "not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_fix(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in WHOLE
    with pytest.raises(RecipeFileError) as refused:
        load_recipe(_file(tmp_path, WHOLE.replace(old, new, 1)))
    assert told in str(refused.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = WHOLE.replace("group_size", "groupsize").replace('"H200"', '"H20"').replace("gpus = 2", "gpus = 0")
    with pytest.raises(RecipeFileError) as refused:
        load_recipe(_file(tmp_path, text))
    assert len(refused.value.problems) == 3


def test_the_parent(tmp_path: Path) -> None:
    path = _file(tmp_path, WHOLE)
    with pytest.raises(RecipeFileError, match=r"parent: .*no such file"):
        parent_of(load_recipe(path), path)
    own = _file(tmp_path, WHOLE.replace("bf16.toml", "own.toml"), "own.toml")
    with pytest.raises(RecipeFileError, match="this very file"):
        parent_of(load_recipe(own), own)
    _file(tmp_path, WHOLE.replace('parent = "bf16.toml"\n', ""), "bf16.toml")
    assert parent_of(load_recipe(path), path).parent is None
    assert parent_of(recipe(weights=AWQ), path).axes() == {"weights": "bf16", "activations": "bf16", "kv_cache": "bf16"}


def test_a_model_folder_is_beside_the_file(tmp_path: Path) -> None:
    text = WHOLE.replace('size = "70b"', 'path = "model"')
    with pytest.raises(RecipeFileError, match=r"model.path: .*config.json"):
        load_recipe(_file(tmp_path, text))


def test_the_words_are_the_emulators() -> None:
    assert set(emulator.WEIGHT_FORMATS) <= set(get_args(WeightFormat))
    assert set(emulator.ACTIVATION_FORMATS) <= set(get_args(ActivationFormat))
    assert set(emulator.KV_FORMATS) <= set(get_args(KvFormat))
    assert get_args(WeightPer) == emulator.WEIGHT_PER
    assert get_args(ActivationPer) == emulator.ACTIVATION_PER
    assert get_args(KvPer) == emulator.KV_PER
    every = {*get_args(WeightFormat), *get_args(ActivationFormat), *get_args(KvFormat)}
    assert every == set(FORMATS)


@pytest.mark.parametrize("name", [name for name in emulator.RECIPES if name != "bf16"])
def test_each_of_the_emulators_recipes_can_be_said_in_a_file(name: str) -> None:
    """And comes back with the same words: what the emulator showed and what a file asks for are one thing."""
    known = emulator.RECIPES[name]
    document: dict[str, dict[str, object]] = {}
    for axis in ("weights", "activations", "kv_cache"):
        said = getattr(known, axis)
        if said.format != "bf16":
            document[axis] = {"format": said.format} | ({"per": said.per} if said.per else {})
    said = known.weights
    if said.size:
        document["weights"]["group_size"] = said.size
    read = recipe(**document)
    assert str(read.weights).split(" by ")[0] == str(known.weights)
    assert str(read.activations) == str(known.activations)
    assert str(read.kv_cache) == str(known.kv_cache).removesuffix("32")  # a block's size is the emulator's own


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(RecipeFileError, match="weights: "):
        parse_recipe({**recipe().model_dump(mode="json", exclude_none=True), "weights": "int4"})
