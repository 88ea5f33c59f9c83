"""Calls of our own about tokens: what a chat looks like to the reference, and what it would say next. Pure.

    prefill_shows       whether a prefill shows what the request's greedy decoding would choose
    shape_prompt_tokens the reference's own rendering of the request's prompt
    shape_text_tokens   the tokens of a text        shape_tokens_text   the text of tokens
    shape_verification  the reference reads given tokens in one prefill, and says one of its own

Field names: vLLM 0.32 `entrypoints/openai/*/protocol.py` and `entrypoints/serve/tokenize/protocol.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from backends.eligible import COMPLETIONS_PATH, Kind
from backends.shape import ShadowCall

TOKENIZE_PATH = "/tokenize"
DETOKENIZE_PATH = "/detokenize"

# An allow-list: an option that nobody here has read about may move the logits, or what the prompt is.
_ANY_VALUE = frozenset(
    {
        # what the prompt is, all of which /tokenize takes too
        *("messages", "prompt", "tools", "chat_template", "chat_template_kwargs", "add_special_tokens"),
        # which token is taken, at temperature 0 no matter what they say
        *("temperature", "top_p", "top_k", "min_p", "seed"),
        # where it ends: the engine says so itself
        *("max_tokens", "max_completion_tokens", "stop", "stop_token_ids"),
        # how the reply is told
        *("model", "stream", "stream_options", "logprobs", "top_logprobs", "return_token_ids"),
        *("return_tokens_as_token_ids", "parallel_tool_calls"),
        # whose request it is (shape.py drops them)
        *("store", "metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("service_tier", "priority", "request_id", "session_id"),
    }
)
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto",),  # "none" may leave the tools out of the prompt, the others force a grammar
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "echo": (False,),
    "include_stop_str_in_output": (False,),
}
_PROMPT_FIELDS = ("messages", "tools", "chat_template", "chat_template_kwargs", "add_special_tokens")


def prefill_shows(kind: Kind, body: Mapping[str, Any]) -> bool:
    """Whether the raw distribution after the prompt's token ids is the one that the request's greedy reply is taken
    from: no penalty, bias or grammar, one choice, nothing but text."""
    for key, value in body.items():
        if value is None or key in _ANY_VALUE:
            continue
        if key not in _NEUTRAL or value not in _NEUTRAL[key]:
            return False
    if kind == "completion":
        return True
    return not any(_strict(tool) for tool in body.get("tools") or ()) and all(map(_is_text, body["messages"]))


def shape_prompt_tokens(kind: Kind, body: Mapping[str, Any], model: str | None) -> ShadowCall | tuple[int, ...] | None:
    """The call that tells the reference's token ids of the request's prompt; the ids where they were given; None for
    a prompt that cannot be written down."""
    if kind == "completion":
        prompt = body.get("prompt")
        if isinstance(prompt, list):
            return tuple(prompt)
        return _call(TOKENIZE_PATH, {"prompt": prompt, **_given(body, ("add_special_tokens",))}, model)
    return _call(TOKENIZE_PATH, {"add_generation_prompt": True, **_given(body, _PROMPT_FIELDS)}, model)


def shape_text_tokens(text: str, model: str | None) -> ShadowCall | None:
    """The call that tells the token ids of a reply's text."""
    return _call(TOKENIZE_PATH, {"prompt": text, "add_special_tokens": False}, model)


def shape_tokens_text(tokens: Iterable[int], model: str | None) -> ShadowCall | None:
    """The call that tells the text of token ids."""
    return _call(DETOKENIZE_PATH, {"tokens": [*tokens]}, model)


def shape_verification(
    prompt: Iterable[int],
    forced: Iterable[int],
    *,
    model: str | None,
    top_logprobs: int,
    stop_token_ids: object = None,
) -> ShadowCall | None:
    """The reference's lists at every given token, and its own next one with its list and whether it ends the turn.

    vLLM generates at least one token: it is put to use, by leaving out whatever ended the reply.
    """
    asked: dict[str, Any] = {
        "prompt": [*prompt, *forced],
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": top_logprobs,
        "logprobs": top_logprobs,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    if stop_token_ids:
        asked["stop_token_ids"] = stop_token_ids
    return _call(COMPLETIONS_PATH, asked, model)


def _given(body: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: body[name] for name in names if body.get(name) is not None}


def _strict(tool: object) -> bool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    return not isinstance(function, Mapping) or bool(function.get("strict"))


def _is_text(message: object) -> bool:
    content = message.get("content") if isinstance(message, Mapping) else None
    parts = content if isinstance(content, list) else ()
    return all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts)


def _call(path: str, asked: dict[str, Any], model: str | None) -> ShadowCall | None:
    try:
        return ShadowCall(path, orjson.dumps(asked if model is None else {"model": model, **asked}))
    except (TypeError, ValueError, RecursionError):  # integers past 64 bits, lone surrogates, too deep
        return None
