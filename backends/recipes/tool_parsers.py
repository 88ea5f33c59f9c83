"""Which of vLLM's tool parsers reads a model's calls.

A wrong one loses every call and leaves the text unharmed, so it looks like damaged weights (metrology 2: 218 good calls
against 1,286, all template and parser). Hence: a family that is not known gets none. Dense decoders only.

Source:  vLLM 0.32.0, `tool_parsers/__init__.py` (the names; `tests/e2e/test_launch.py` holds them against it).
Which family speaks which is the table of vLLM's own guide to tool calling.
"""

from __future__ import annotations

import re

# The first that matches both decides: model_type of config.json, the model's name or folder, the parser.
_FAMILIES: tuple[tuple[str, str, str], ...] = (
    (r"qwen.*", r"coder", "qwen3_coder"),
    (r"qwen(2|3)", r"", "hermes"),
    (r"llama", r"hermes|nous", "hermes"),
    (r"llama", r"llama[-_ ]?3", "llama3_json"),
    (r"mistral3?|ministral3?", r"", "mistral"),
    (r"granite", r"", "granite"),
    (r"phi3", r"phi-?4-mini", "phi4_mini_json"),
)
_BY_NAME = (
    (r"qwen", "qwen3"), (r"hermes|llama", "llama"), (r"mistral", "mistral"), (r"granite", "granite"),
    (r"phi-?4", "phi3"),
)  # fmt: skip

PARSERS = frozenset(parser for _, _, parser in _FAMILIES)


def tool_parser(model_type: str | None, name: str) -> str | None:
    """The parser for a family; None where it is not known. Without a model_type the name alone tells the family."""
    if model_type is None:
        found = (kind for called, kind in _BY_NAME if re.search(called, name, re.IGNORECASE))
        model_type = next(found, "")
    for kind, called, parser in _FAMILIES:
        if re.fullmatch(kind, model_type) and re.search(called, name, re.IGNORECASE):
            return parser
    return None
