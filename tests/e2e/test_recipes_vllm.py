"""What recipes say about vLLM, held against the installed vLLM's source and llm-compressor's presets."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

from backends.recipes.hardware import card_named
from backends.recipes.serving import KV_DTYPES, MIN_CAPABILITY, backends_in_order
from tests.e2e.engines import QUANTIZE_PYTHON, VLLM_PYTHON

FILES = {
    "FLASH_ATTN": "flash_attn.py", "FLASHINFER": "flashinfer.py", "TRITON_ATTN": "triton_attn.py",
    "FLEX_ATTENTION": "flex_attention.py", "CPU_ATTN": "cpu_attn.py",
}  # fmt: skip


PRESETS = """
import json
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
print(json.dumps(list(PRESET_SCHEMES)))
"""


def _vllm() -> Path:
    (found,) = (VLLM_PYTHON.parents[1] / "lib").glob("python*/site-packages/vllm")
    return found


@pytest.mark.parametrize("backend", FILES)
def test_kv_dtypes_by_attention_backend(backend: str) -> None:
    tree = ast.parse((_vllm() / "v1" / "attention" / "backends" / FILES[backend]).read_text())
    lists = [
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "supported_kv_cache_dtypes"
        and node.value is not None
    ]
    assert [frozenset(one) for one in lists] == [KV_DTYPES[backend]]


@pytest.mark.parametrize(
    ("card", "on_blackwell"), [("h100", False), ("a100", False), ("rtx-5090", False), ("b200", True)]
)
def test_the_order_in_which_backends_are_tried(card: str, on_blackwell: bool) -> None:
    """The plain return lists of `_get_backend_priorities`, without the entries for image prefixes and MLA."""
    tree = ast.parse((_vllm() / "platforms" / "cuda.py").read_text())
    (function,) = (
        one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == "_get_backend_priorities"
    )
    returned = [
        [element.attr for element in node.value.elts if isinstance(element, ast.Attribute)]
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.List)
    ]
    plain = [names for names in returned if "FLEX_ATTENTION" in names]
    assert len(plain) == 2
    ordered = [[name for name in names if name in KV_DTYPES] for names in plain]
    (wanted,) = [names for names in ordered if (names[0] == "FLASHINFER") == on_blackwell]
    assert list(backends_in_order(card_named(card))) == wanted


def test_the_schemes_exist_in_llm_compressors_presets() -> None:
    done = subprocess.run(
        [str(QUANTIZE_PYTHON), "-c", PRESETS],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    presets = set(json.loads(done.stdout.splitlines()[-1]))
    assert set(MIN_CAPABILITY) <= presets
