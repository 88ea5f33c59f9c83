"""The only place where a request body is edited. Pure: a parsed body in, a shadow call or a refusal out.

    classify             is this request one that we can mirror, and of which kind (written in eligible.py)
    shape_replay         the same request, once more, not streamed, with logprobs and token ids
    shape_teacher_forced the reference reads the candidate's own tokens in one prefill
    shape_needle         a long chat with a planted fact and a question for it
    shadow_headers       what may travel with a shadow call: an allow-list, never a credential

What a client asked for and what shapes its answer (tools, response_format, stop, penalties, logit_bias,
length limits, template arguments) stays. What attributes a call to the client, or names its transport, goes.
Field names: OpenAI's API reference, and vLLM 0.32 `entrypoints/openai/*/protocol.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from backends.eligible import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    Kind,
    Refusal,
    RefusalReason,
    classify,
    is_greedy,
)
from backends.needle import Haystack, draw_fact

__all__ = [
    "Kind",
    "NeedleCall",
    "Refusal",
    "RefusalReason",
    "ShadowCall",
    "classify",
    "is_greedy",
    "shadow_headers",
    "shape_needle",
    "shape_replay",
    "shape_teacher_forced",
]

NEEDLE_MAX_TOKENS = 256  # *choice*: six digits, with room for a model that reasons first

# Attribution and billing: shadow traffic is nobody's. `request_id` and `session_id` would also collide in the engine.
_ATTRIBUTION = frozenset(
    {
        "store",
        "metadata",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "priority",
        "request_id",
        "session_id",
    }
)
# Transport of this one call: stream framing, disaggregated-serving handles, reports that only the client reads.
_TRANSPORT = frozenset(
    {
        "stream",
        "stream_options",
        "stream_interval",
        "kv_transfer_params",
        "ec_transfer_params",
        "logprob_token_ids",
    }
)
_DROPPED = _ATTRIBUTION | _TRANSPORT
# A needle is answered in plain text: no tools, no grammar, no early stop, no long tail.
_NOT_IN_NEEDLES = _DROPPED | {
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "bad_words",
    "allowed_token_ids",
    "logit_bias",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "n",
    "max_completion_tokens",
    "truncate_prompt_tokens",
    "continue_final_message",
    "add_generation_prompt",
}

# Never forwarded, whatever the settings allow: credentials, identity, framing.
_REFUSED_HEADERS = frozenset(
    {
        "host",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "content-length",
        "content-encoding",
        "content-type",
        "accept",
        "accept-encoding",
        "x-request-id",
        "openai-organization",
        "openai-project",
        "forwarded",
        "x-forwarded-for",
        "x-real-ip",
    }
)
_REFUSED_IN_NAME = ("auth", "cookie", "token", "secret", "api-key", "apikey", "credential", "password")


@dataclass(frozen=True, slots=True)
class ShadowCall:
    """One request of ours, ready to send: path and JSON body."""

    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class NeedleCall:
    """A shadow call with a planted fact. The same body and seed plant the same fact for every arm.

    Units:  depth_ratio is the share of the prompt's text before the needle, 0 to 1.
    """

    call: ShadowCall
    needle: str
    answer: str
    depth_ratio: float


def shape_replay(
    body: Mapping[str, Any],
    path: str,
    *,
    model: str | None,
    top_logprobs: int,
    greedy: bool,
    seed: int | None,
    max_tokens_cap: int | None,
    leave_out: Collection[str] = (),
) -> ShadowCall | Refusal:
    """The client's request once more: whole, with top-k logprobs and token ids, greedy if asked.

    `leave_out` are fields that the engine refuses, or that would make the two arms answer in different words.

    Greedy sets temperature 0, which makes top_p, top_k and min_p irrelevant; penalties and logit_bias are part of
    the request and stay. `n` stays when the request itself is at temperature 0 (the served choices are matched one
    by one); otherwise it becomes 1, because all greedy choices are equal and vLLM refuses n > 1 at temperature 0.
    """
    kind = classify(path, body)
    if isinstance(kind, Refusal):
        return kind
    shaped = {key: value for key, value in body.items() if key not in _DROPPED}
    if model is not None:
        shaped["model"] = model
    _ask_for_logprobs(shaped, kind, top_logprobs, leave_out)
    if greedy:
        if not is_greedy(body):
            shaped.pop("n", None)
        shaped["temperature"] = 0
    if "seed" in leave_out:
        shaped.pop("seed", None)
    elif seed is not None:
        shaped["seed"] = seed
    if max_tokens_cap is not None:
        _cap_tokens(shaped, kind, max_tokens_cap)
    return _call(CHAT_PATH if kind == "chat" else COMPLETIONS_PATH, shaped)


def shape_teacher_forced(
    prompt_token_ids: Iterable[int],
    completion_token_ids: Iterable[int],
    *,
    model: str | None,
    top_logprobs: int,
) -> ShadowCall:
    """The reference's distribution at every given token: one prefill, for /v1/completions of a vLLM.

    Source:  vLLM 0.32 refuses max_tokens 0, so one token is generated and ignored.
    """
    shaped: dict[str, Any] = {} if model is None else {"model": model}
    shaped |= {
        "prompt": [*prompt_token_ids, *completion_token_ids],
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": top_logprobs,
        "return_tokens_as_token_ids": True,
    }
    return ShadowCall(COMPLETIONS_PATH, orjson.dumps(shaped))


def shape_needle(
    body: Mapping[str, Any],
    path: str,
    *,
    model: str | None,
    top_logprobs: int,
    seed: int,
    leave_out: Collection[str] = (),
) -> NeedleCall | Refusal:
    """A copy of a chat prompt with a fact planted at a seeded depth and a question for it as the last user turn.

    The last user turn is replaced by the question, and what followed it is cut. Where that turn itself holds most
    of the text (a document and a question in one message), its text stays and the question follows it.
    """
    kind = classify(path, body)
    if isinstance(kind, Refusal):
        return kind
    if kind != "chat":
        return Refusal(RefusalReason.UNSUPPORTED, "needle_needs_chat")
    haystack = Haystack.of(body["messages"])
    if haystack is None:
        return Refusal(RefusalReason.UNSUPPORTED, "no_text")
    fact = draw_fact(seed, haystack.texts)
    messages, depth = haystack.with_fact(fact)
    shaped = {key: value for key, value in body.items() if key not in _NOT_IN_NEEDLES}
    if model is not None:
        shaped["model"] = model
    shaped |= {"messages": messages, "max_tokens": NEEDLE_MAX_TOKENS, "temperature": 0}
    _ask_for_logprobs(shaped, "chat", top_logprobs, leave_out)
    call = _call(CHAT_PATH, shaped)
    return call if isinstance(call, Refusal) else NeedleCall(call, fact.needle, fact.answer, depth)


def shadow_headers(captured: Iterable[tuple[bytes, bytes]], allowed: Iterable[str]) -> dict[str, str]:
    """The headers of a shadow call: JSON in and out, and the allowed ones of the client's.

    Credentials, identity and framing are refused even when allowed.
    """
    wanted = {name.lower() for name in allowed}
    headers = {"content-type": "application/json", "accept": "application/json"}
    for raw_name, raw_value in captured:
        name = raw_name.decode("latin-1").lower()
        if name in wanted and not _is_refused(name):
            headers[name] = raw_value.decode("latin-1")
    return headers


def _ask_for_logprobs(shaped: dict[str, Any], kind: Kind, top_logprobs: int, leave_out: Collection[str]) -> None:
    if kind == "chat":
        shaped |= {"logprobs": True, "top_logprobs": top_logprobs}
    else:
        shaped["logprobs"] = top_logprobs
    shaped |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
    for field in leave_out:
        shaped.pop(field, None)
    if "logprobs" in leave_out:
        shaped.pop("top_logprobs", None)


def _cap_tokens(shaped: dict[str, Any], kind: Kind, cap: int) -> None:
    given = [key for key in ("max_tokens", "max_completion_tokens") if isinstance(shaped.get(key), int)]
    for key in given:
        shaped[key] = min(shaped[key], cap)
    if not given and (kind == "chat" or cap < 16):  # completions default to 16 tokens (OpenAI, vLLM)
        shaped["max_tokens"] = cap


def _call(path: str, shaped: Mapping[str, Any]) -> ShadowCall | Refusal:
    try:
        return ShadowCall(path, orjson.dumps(shaped))
    except (TypeError, ValueError, RecursionError):  # integers past 64 bits, lone surrogates, too deep
        return Refusal(RefusalReason.BAD_REQUEST, "not_serialisable")


def _is_refused(name: str) -> bool:
    return name in _REFUSED_HEADERS or any(part in name for part in _REFUSED_IN_NAME)
