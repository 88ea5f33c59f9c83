"""Families and their tool parsers; none where a family speaks in several ways or is not known."""

from __future__ import annotations

import pytest

from backends.recipes.tool_parsers import tool_parser


@pytest.mark.parametrize(
    ("model_type", "name", "parser"),
    [
        ("qwen3", "Qwen3-32B", "hermes"),
        ("qwen2", "Qwen2.5-72B-Instruct", "hermes"),
        ("qwen3", "Qwen3-Coder-14B", "qwen3_coder"),
        ("llama", "meta-llama/Llama-3.3-70B-Instruct", "llama3_json"),
        ("llama", "NousResearch/Hermes-3-Llama-3.1-8B", "hermes"),
        ("llama", "some-finetune", None),
        ("mistral", "Mistral-7B-v0.3", "mistral"),
        ("granite", "granite-3.1-8b-instruct", "granite"),
        ("phi3", "Phi-4-mini-instruct", "phi4_mini_json"),
        ("phi3", "Phi-3-mini", None),
        ("gemma2", "gemma-2-9b", None),
        (None, "Qwen/Qwen3-8B", "hermes"),
        (None, "Llama-3.1-70B", "llama3_json"),
        (None, "Mistral-7B-v0.3", "mistral"),
        (None, "my-model", None),
    ],
)
def test_families(model_type: str | None, name: str, parser: str | None) -> None:
    assert tool_parser(model_type, name) == parser
