"""The tokenizer and the chat template of a model directory, read and rendered as vLLM does it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from backends.dialect.ask import Refused
from backends.emulator.checkpoint import ModelError, read_json, read_shape

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "</s>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as token ids."""

    ids: tuple[int, ...]


class Vocabulary:
    """Implements `dialect.words.Tokenizer`. `ends` are the tokens that end a turn."""

    def __init__(self, directory: Path, size: int) -> None:
        """`size` is the model's vocabulary. Raises: ModelError."""
        try:
            self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception, whatever is wrong
            raise ModelError(f"{directory / 'tokenizer.json'}: {error}") from error
        self.size = size
        self._template = _template(directory)
        self._written: dict[int, str] = {}
        self.ends = _ends(directory, self._tokenizer)

    @classmethod
    def of(cls, directory: Path) -> Vocabulary:
        """The vocabulary of a model directory. Raises: ModelError."""
        return cls(directory, read_shape(directory).vocabulary)

    @property
    def chats(self) -> bool:
        """Whether there is a chat template."""
        return self._template is not None

    def chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], body: Mapping[str, Any]
    ) -> Prompt:
        """The prompt of a chat. Raises: Refused."""
        if self._template is None:
            raise Refused(400, "This model has no chat template; use /v1/completions.")
        if body.get("continue_final_message"):
            raise Refused(400, "The emulator does not support `continue_final_message`.")
        given = body.get("chat_template_kwargs")
        try:
            text = self._template.render(
                **(given if isinstance(given, dict) else {}),
                messages=[_readable(message) for message in messages],
                tools=[_shown(tool) for tool in tools] or None,
                add_generation_prompt=body.get("add_generation_prompt", True) is not False,
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise Refused(400, f"The chat template cannot take these messages: {error}") from error
        return Prompt(tuple(self._tokenizer.encode(_clean(text), add_special_tokens=False).ids))

    def plain(self, text: str) -> Prompt:
        """The prompt of a text."""
        return Prompt(tuple(self._tokenizer.encode(_clean(text)).ids))

    def given(self, ids: Sequence[int]) -> Prompt:
        """The prompt of token ids. Raises: Refused when one is outside of the vocabulary."""
        wrong = max(ids, default=0)
        if wrong >= self.size:
            raise Refused(400, f"Token id {wrong} is out of vocabulary (parameter=prompt)", param="prompt")
        return Prompt(tuple(ids))

    def forced(self, text: str) -> list[int]:
        """The tokens of a text that the model is made to say."""
        return list(self._tokenizer.encode(_clean(text), add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return str(self._tokenizer.decode([one for one in ids if one < self.size], skip_special_tokens=False))

    def written(self, token: int) -> str:
        """How one token is written in a logprob list; empty when it is only part of a character."""
        if token not in self._written:
            text = str(self._tokenizer.decode([token], skip_special_tokens=False))
            self._written[token] = "" if text.endswith("\ufffd") else text
        return self._written[token]

    def spelled(self, token: int) -> bytes:
        """The bytes of a written token."""
        return self.written(token).encode()

    def reader(self, *, special: bool) -> TextReader:
        """Turns tokens into text one by one; `special` shows special tokens."""
        return TextReader(self._tokenizer, special=special)


class TextReader:
    """Text as tokens come. What is part of a character waits for the rest of it."""

    def __init__(self, tokenizer: Tokenizer, *, special: bool) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=not special)

    def read(self, token: int) -> str:
        """What this token adds."""
        return self._stream.step(self._tokenizer, token) or ""


def _readable(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates expect it: text parts joined, arguments parsed. Source: vLLM `chat_utils.py`."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise Refused(400, "This model is not multimodal: only text parts are supported.", param="messages")
        content = "\n".join(str(part) for part in parts)
    elif content is not None and not isinstance(content, str):
        raise Refused(400, "A message's content must be text, a list of text parts or null.", param="messages")
    readable = {"role": "user", **message, "content": content}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        readable["tool_calls"] = [_readable_call(call) for call in calls]
    return readable


def _shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as templates get to see it: known fields in a fixed order, null for what is not said.

    Source: vLLM 0.32 `entrypoints/generate/base/protocol.py: FunctionDefinition`.
    """
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise Refused(400, "A tool needs a function.", param="tools")
    said = {name: function.get(name) for name in ("name", "description", "parameters")}
    said |= {name: function[name] for name in ("strict", "defer_loading") if function.get(name) is not None}
    return {"type": "function", "function": said}


def _readable_call(call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise Refused(400, "A tool call needs a function with name and arguments.", param="messages")
    arguments = function.get("arguments") or {}
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError as error:
        raise Refused(400, f"The arguments of a tool call are not JSON: {error}", param="messages") from error
    return {**call, "function": {**function, "arguments": parsed}}


def _template(directory: Path) -> jinja2.Template | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        source: object = path.read_text(encoding="utf-8")
    else:
        config = directory / "tokenizer_config.json"
        source = read_json(config).get("chat_template") if config.is_file() else None
    if not isinstance(source, str):
        return None
    # transformers' environment: `utils/chat_template_utils.py`
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ModelError(f"{directory}: its chat template cannot be read: {error}") from error


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _ends(directory: Path, tokenizer: Tokenizer) -> frozenset[int]:
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        value = read_json(path).get("eos_token_id") if path.is_file() else None
        found |= {one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)}
    if not found:
        found |= {token for text in _TURN_ENDS if (token := tokenizer.token_to_id(text)) is not None}
    return frozenset(found)


def _clean(text: str) -> str:
    """Lone surrogates cannot be encoded: they become "?"."""
    return text.encode("utf-8", "replace").decode()
