"""What a request asks for: read, checked and refused with vLLM's own words and shapes.

Source:  replies of vLLM 0.32.0 to the same mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal

import orjson

from backends.dialect.words import MAX_TOP, P, Tokenizer


class Refused(Exception):
    """The request is answered with an error in vLLM's shape."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, kind, param)


def error_body(status: int, message: str, kind: str, param: str | None = None) -> bytes:
    """An error as vLLM writes it."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": status}})


@dataclass(frozen=True, slots=True)
class Wish:
    """What the answer must look like. `tool` names one function; `schema` is a JSON Schema, {} for any object."""

    tool_choice: Literal["auto", "none", "required", "named"] = "auto"
    tool: str = ""
    parallel: bool = True
    schema: Mapping[str, Any] | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask(Generic[P]):
    """One request, understood. `logprobs` is the length of the list per token, None for no logprobs.

    `body` is the whole request, for what only some engines read; `tools` says that it offers some.
    """

    chat: bool
    model: str
    tokenizer: Tokenizer[P]
    prompts: tuple[P, ...]
    n: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    max_tokens: int | None
    temperature: float
    seed: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    return_token_ids: bool
    tokens_as_ids: bool
    stop: tuple[str, ...]
    wish: Wish
    echo: bool
    tools: bool
    body: Mapping[str, Any]


def read_ask(
    chat: bool, raw: bytes, content_type: str, model: str, max_model_len: int, tokenizer: Tokenizer[P]
) -> Ask[P]:
    """The request in a body. Raises: Refused."""
    body = read_object(raw, content_type)
    check_model(body, model)
    prompts = _chat_prompt(body, tokenizer) if chat else _completion_prompts(body, tokenizer)
    for prompt in prompts:
        if len(prompt.ids) >= max_model_len:
            raise _too_long(max_model_len)
    stream = bool(body.get("stream"))
    options = body.get("stream_options")
    if options is not None and not stream:
        raise _bad("Stream options can only be defined when `stream=True`.", "stream_options")
    options = options if isinstance(options, Mapping) else {}
    temperature = _temperature(body)
    n = _integer(body, "n", 1, least=1) or 1
    if n > 1 and temperature == 0.0:
        raise Refused(400, f"n must be 1 when using greedy sampling, got {n}.")
    logprobs, prompt_logprobs = _logprobs(body, chat), _prompt_logprobs(body, stream)
    echo = not chat and bool(body.get("echo"))
    if echo and not stream and prompt_logprobs is None:
        prompt_logprobs = logprobs
    return Ask(
        chat=chat,
        model=model,
        tokenizer=tokenizer,
        prompts=prompts,
        n=n,
        stream=stream,
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage")) and bool(options.get("continuous_usage_stats")),
        max_tokens=_max_tokens(body, chat, max_model_len),
        temperature=temperature,
        seed=_integer(body, "seed", None, least=-(1 << 63)),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        return_token_ids=bool(body.get("return_token_ids")),
        tokens_as_ids=bool(body.get("return_tokens_as_token_ids")),
        stop=_stop(body),
        wish=_wish(body),
        echo=echo,
        tools=chat and bool(body.get("tools")),
        body=body,
    )


def read_object(raw: bytes, content_type: str) -> Mapping[str, Any]:
    """The JSON object in a body. Raises: Refused."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise Refused(400, message, "Bad Request")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        message = (
            f"1 validation error:\n  {{'type': 'json_invalid', 'loc': 'body.{error.pos}', 'msg': 'JSON decode error'}}"
        )
        raise Refused(400, message, "Bad Request", f"body.{error.pos}") from error
    if not isinstance(body, dict):
        message = (
            "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body',"
            " 'msg': 'Input should be a valid dictionary or object to extract fields from'}"
        )
        raise Refused(400, message, "Bad Request", "body")
    return body


def check_model(body: Mapping[str, Any], model: str) -> None:
    """Nothing when the request means our model. Raises: Refused (404)."""
    asked = body.get("model")
    if asked is not None and asked != model:
        message = f"The model `{str(asked)[:200]}` does not exist. Valid aliases: {model}."
        raise Refused(404, message, "NotFoundError", "model")


def rendered(body: Mapping[str, Any], tokenizer: Tokenizer[P]) -> P:
    """The prompt of a /tokenize request: a chat or a text. Raises: Refused."""
    if "messages" in body:
        return tokenizer.chat(_messages(body), _tools(body), body)
    return tokenizer.plain(str(body.get("prompt", "")))


def _bad(message: str, param: str, value: object = None) -> Refused:
    tail = f"(parameter={param}, value={value})" if value is not None else f"(parameter={param})"
    return Refused(400, f"{message} {tail}", param=param)


def _invalid(field: str, message: str, kind: str, given: str = "") -> Refused:
    told = f", 'input': '{given}'" if given else ""
    text = f"1 validation error:\n  {{'type': '{kind}', 'loc': 'body.{field}', 'msg': '{message}'{told}}}"
    return Refused(400, text, "Bad Request", f"body.{field}")


def _too_long(limit: int) -> Refused:
    return _bad(
        f"This model's maximum context length is {limit} tokens. However, your prompt contains at least {limit + 1}"
        " input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the"
        " input prompt.",
        "input_tokens",
        limit + 1,
    )


def _messages(body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    messages = body.get("messages")
    if messages is None:
        raise _invalid("messages", "Field required", "missing", f"<dict of {len(body)} items>")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _invalid("messages", "Input should be a valid list", "list_type")
    if not messages:
        raise Refused(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
    return messages


def _tools(body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    tools = body.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise _invalid("tools", "Input should be a valid list", "list_type")
    return tools


def _chat_prompt(body: Mapping[str, Any], tokenizer: Tokenizer[P]) -> tuple[P, ...]:
    messages, tools = _messages(body), _tools(body)
    if body.get("tool_choice") not in (None, "none") and not tools:
        raise _bad("When using `tool_choice`, `tools` must be set.", "tool_choice")
    return (tokenizer.chat(messages, tools, body),)


def _completion_prompts(body: Mapping[str, Any], tokenizer: Tokenizer[P]) -> tuple[P, ...]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return (tokenizer.plain(prompt),)
    if isinstance(prompt, list) and prompt and all(type(token) is int and token >= 0 for token in prompt):
        return (tokenizer.given(prompt),)
    if isinstance(prompt, list) and prompt and all(isinstance(one, str) for one in prompt):
        return tuple(tokenizer.plain(one) for one in prompt)
    raise _invalid("prompt", "Input should be a string, token ids or a list of strings", "missing")


def _temperature(body: Mapping[str, Any]) -> float:
    value = body.get("temperature")
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid("temperature", "Input should be a valid number", "float_parsing")
    if value < 0:
        raise _bad(f"temperature must be non-negative, got {float(value)}.", "temperature", float(value))
    return 0.0 if value < 1e-5 else float(value)


def _integer(body: Mapping[str, Any], name: str, default: int | None, *, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid(name, "Input should be a valid integer", "int_type")
    if value < least:
        raise _bad(f"{name} must be at least {least}, got {value}.", name, value)
    return value


def _max_tokens(body: Mapping[str, Any], chat: bool, max_model_len: int) -> int | None:
    name = "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
    value = _integer(body, name, None if chat else 16, least=1)
    if value is not None and value > max_model_len:
        message = (
            f"max_tokens={value} cannot be greater than max_model_len={max_model_len}."
            " Please request fewer output tokens."
        )
        raise _bad(message, "max_tokens", value)
    return value


def _logprobs(body: Mapping[str, Any], chat: bool) -> int | None:
    if not chat:
        return _capped(_integer(body, "logprobs", None, least=0), "logprobs")
    wanted = body.get("logprobs") is True
    top = _integer(body, "top_logprobs", 0, least=0) or 0
    if top and not wanted:
        raise _bad("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    return _capped(top, "logprobs") if wanted else None


def _prompt_logprobs(body: Mapping[str, Any], stream: bool) -> int | None:
    value = _integer(body, "prompt_logprobs", None, least=0)
    if value is not None and stream:
        raise _bad("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
    return _capped(value, "prompt_logprobs")


def _capped(value: int | None, name: str) -> int | None:
    if value is not None and value > MAX_TOP:
        kind = "sample" if name == "logprobs" else "prompt"
        raise _bad(f"Requested {kind} logprobs of {value}, which is greater than max allowed: {MAX_TOP}", name, value)
    return value


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    if isinstance(stop, str):
        return (stop,) if stop else ()
    return tuple(one for one in stop if isinstance(one, str) and one) if isinstance(stop, list) else ()


def _wish(body: Mapping[str, Any]) -> Wish:
    choice, tool = body.get("tool_choice"), ""
    if isinstance(choice, Mapping):
        function = choice.get("function")
        tool = str(function.get("name", "")) if isinstance(function, Mapping) else ""
    schema, options = _structure(body)
    return Wish(
        tool_choice="named" if tool else choice if choice in ("none", "required") else "auto",
        tool=tool,
        parallel=body.get("parallel_tool_calls") is not False,
        schema=schema,
        options=options,
    )


def _structure(body: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    """The schema and the closed set of answers that the request demands, in OpenAI's words or in vLLM's."""
    wanted = body.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
        inner = wanted.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
        return (schema if isinstance(schema, Mapping) else {}), ()
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_object":
        return {}, ()
    outputs = body.get("structured_outputs")
    outputs = outputs if isinstance(outputs, Mapping) else {}
    schema = outputs.get("json", body.get("guided_json"))
    options = outputs.get("choice", body.get("guided_choice"))
    return (
        schema if isinstance(schema, Mapping) else None,
        tuple(str(one) for one in options) if isinstance(options, list) else (),
    )
