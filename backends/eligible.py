"""Which requests can be mirrored, by path and parsed body. Pure; the reasons are a closed set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["chat", "completion"]

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"

MAX_CHOICES = 8  # *choice*: above it one sampled request costs the reference more than it tells


class RefusalReason(StrEnum):
    """Why a request is not mirrored. The values are the monitor's own reasons for `ineligible`."""

    PATH = "path"
    BAD_REQUEST = "bad_request"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Refusal:
    """No shadow call can be made of this request. `detail` is one of a closed set of words, never client text."""

    reason: RefusalReason
    detail: str


def classify(path: str, body: object) -> Kind | Refusal:
    """Which kind of request this is, or why it is not mirrored. `path` may carry a query."""
    bare = path.partition("?")[0]
    if bare not in (CHAT_PATH, COMPLETIONS_PATH):
        return Refusal(RefusalReason.PATH, "path")
    if not isinstance(body, Mapping):
        return Refusal(RefusalReason.BAD_REQUEST, "not_an_object")
    kind: Kind = "chat" if bare == CHAT_PATH else "completion"
    return _refused(kind, body) or kind


def is_greedy(body: Mapping[str, Any]) -> bool:
    """True when the request itself says temperature 0 (vLLM takes anything below 1e-5 for 0)."""
    temperature = body.get("temperature")
    return isinstance(temperature, int | float) and not isinstance(temperature, bool) and 0 <= temperature < 1e-5


def _refused(kind: Kind, body: Mapping[str, Any]) -> Refusal | None:
    choices = body.get("n")
    if choices is not None and (isinstance(choices, bool) or not isinstance(choices, int) or choices < 1):
        return Refusal(RefusalReason.BAD_REQUEST, "n")
    if kind == "chat":
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, Mapping) for m in messages):
            return Refusal(RefusalReason.BAD_REQUEST, "messages")
    elif not isinstance(body.get("prompt"), str | list):
        return Refusal(RefusalReason.BAD_REQUEST, "prompt")
    detail = _unsupported(kind, body, choices or 1)
    return Refusal(RefusalReason.UNSUPPORTED, detail) if detail else None


def _unsupported(kind: Kind, body: Mapping[str, Any], choices: int) -> str | None:
    best_of = body.get("best_of")
    if choices > MAX_CHOICES:
        return "n"
    if body.get("use_beam_search") or (isinstance(best_of, int) and best_of > 1):
        return "beam_search"
    if body.get("echo"):
        return "echo"
    if body.get("prompt_logprobs") is not None:
        return "prompt_logprobs"  # the candidate was asked for them: its memory is at stake already, add nothing
    if kind == "chat":
        return "audio" if _speaks_audio(body) else None
    prompt = body["prompt"]
    if body.get("prompt_embeds") is not None:
        return "prompt_embeds"
    if isinstance(prompt, list) and not all(type(token) is int for token in prompt):
        return "several_prompts"
    return None


def _speaks_audio(body: Mapping[str, Any]) -> bool:
    modalities = body.get("modalities")
    if body.get("audio") is not None or (isinstance(modalities, list) and any(m != "text" for m in modalities)):
        return True
    return any(
        isinstance(part, Mapping) and part.get("type") in ("input_audio", "audio_url")
        for message in body["messages"]
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )
