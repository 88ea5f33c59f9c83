"""The scripted engine's tokenizer and template as the dialect wants them, and requests read with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from backends.dialect import ask as dialect
from backends.scripted.template import Prompt, plain, read, render
from backends.scripted.tokens import decode, encode, piece_text, special, token_bytes

Ask: TypeAlias = dialect.Ask[Prompt]


class ScriptedTokenizer:
    """Implements `dialect.words.Tokenizer`."""

    def chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], body: Mapping[str, Any]
    ) -> Prompt:
        return render(messages, tools, generate=body.get("add_generation_prompt", True) is not False)

    def plain(self, text: str) -> Prompt:
        return plain(encode(text))

    def given(self, ids: Sequence[int]) -> Prompt:
        return read(ids)

    def decode(self, ids: Sequence[int]) -> str:
        return decode(ids)

    def written(self, token: int) -> str:
        return piece_text(token)

    def spelled(self, token: int) -> bytes:
        return special(token).encode() or token_bytes(token)


TOKENIZER = ScriptedTokenizer()


def read_ask(chat: bool, raw: bytes, content_type: str, model: str, max_model_len: int) -> Ask:
    """The request in a body. Raises: dialect.ask.Refused."""
    return dialect.read_ask(chat, raw, content_type, model, max_model_len, TOKENIZER)
