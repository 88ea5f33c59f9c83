"""What a server says about itself, as a fingerprint that can be stored and compared.

A verdict holds for one candidate and one reference. When either is replaced (weights, engine, template, length), the
evidence gathered before says nothing about the new one; this module notices. Paths are hashed, never stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from backends.base import Backend, BackendUnavailable, Reply
from backends.conversation import conversation_tokens
from backends.weights import WeightFiles

OBSERVE_TIMEOUT_S = 10.0  # *choice*: per call; an idle engine answers all four in milliseconds

# A statement by the server that it has no such thing. Any other failure says nothing about what the server is.
ABSENT = frozenset({400, 401, 403, 404, 405, 422, 501})

_JSON = {"content-type": "application/json"}

# Digits, spaces, case, accents and another script: where tokenizers and templates differ first.
PROBE_MESSAGES = (
    {"role": "system", "content": "You are a probe.\n  Answer 1234567890 times."},
    {"role": "user", "content": "Naïve café  costs 3.50 €; 東京 is UTC+9?\tYes/No"},
    {"role": "assistant", "content": "No."},
    {"role": "user", "content": "def f(x):\n    return x ** 2"},
)


@dataclass(frozen=True, slots=True)
class Contract:
    """One server's fingerprint. None: the server has no such endpoint or field, which is itself a fact about it.

    `root`, `template` and `weights` are SHA-256 prefixes: of where the weights come from, of the token ids of a fixed
    conversation (so of tokenizer and chat template together), and of the weight files (weights.py) where they can be
    read on this machine.
    """

    engine_version: str | None = None
    model: str | None = None
    max_model_len: int | None = None
    root: str | None = None
    template: str | None = None
    weights: str | None = None
    system_fingerprint: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, known fields only."""
        return {key: value for key, value in asdict(self).items() if value is not None}


async def observe(
    backend: Backend,
    model: str | None,
    *,
    weights: WeightFiles | None = None,
    timeout_s: float = OBSERVE_TIMEOUT_S,
    ask_for_token: bool = True,
) -> Contract:
    """The contract of one arm as it stands now. `model` None takes the first model that the server lists.

    `ask_for_token` spends one generated token, because engines tell their system_fingerprint only with a completion.
    A model that the server does not list gives a contract whose `model` is None. `weights` looks at the arm's files;
    what it is unsure of is left None.
    Raises:  BackendError; also BackendUnavailable when the server answers 5xx or 429: it says nothing then.
    """
    version = await _get(backend, "/version", timeout_s)
    card = _card(await _get(backend, "/v1/models", timeout_s), model)
    name = _text(card.get("id"))
    asked = name or model or ""

    async def ask(path: str, body: Mapping[str, Any]) -> Reply:
        reply = await backend.post(path, orjson.dumps(body), _JSON, timeout_s)
        _object(backend, path, reply)  # what says nothing of the engine is no answer
        return reply

    tokens, _ = await conversation_tokens(ask, asked, PROBE_MESSAGES)
    seen: dict[str, Any] = {}
    if ask_for_token:
        question = {"model": asked, "prompt": "parity", "max_tokens": 1, "temperature": 0}
        seen = await _post(backend, "/v1/completions", question, timeout_s)
    length = context_length(card)
    return Contract(
        engine_version=_text(version.get("version")),
        model=name,
        max_model_len=length,
        root=_digest(card.get("root") or _sizes(card)),
        template=_digest(tokens or None),
        weights=await weights.look(card.get("root")) if weights is not None else None,
        system_fingerprint=_text(seen.get("system_fingerprint")),
    )


def context_length(card: Mapping[str, Any]) -> int | None:
    """The context length by a model's entry in /v1/models: vLLM, SGLang, or one slot of llama.cpp. Units: tokens."""
    meta = card.get("meta")
    length = card.get("max_model_len", meta.get("n_ctx") if isinstance(meta, dict) else None)
    return length if type(length) is int else None


def _sizes(card: Mapping[str, Any]) -> dict[str, Any] | None:
    """What llama.cpp says of its file instead of where it is: another quantization has another size."""
    meta = card.get("meta")
    named = ("n_params", "size", "ftype", "n_vocab")
    return {name: meta[name] for name in named if name in meta} or None if isinstance(meta, dict) else None


async def _get(backend: Backend, path: str, timeout_s: float) -> dict[str, Any]:
    return _object(backend, path, await backend.get(path, timeout_s))


async def _post(backend: Backend, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    return _object(backend, path, await backend.post(path, orjson.dumps(body), _JSON, timeout_s))


def _object(backend: Backend, path: str, reply: Reply) -> dict[str, Any]:
    if not reply.ok:
        if reply.status in ABSENT:
            return {}
        raise BackendUnavailable(f"{backend.name}: {path} answered {reply.status}, so its contract is unknown")
    try:
        parsed = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return {}  # something else lives at this path (a web page, an empty 200): the endpoint is absent
    return parsed if isinstance(parsed, dict) else {}


def _card(listing: dict[str, Any], model: str | None) -> dict[str, Any]:
    data = listing.get("data")
    cards = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    wanted = [card for card in cards if model is None or card.get("id") == model]
    return wanted[0] if wanted else {}


def _text(value: object) -> str | None:
    return value[:200] if isinstance(value, str) else None


def _digest(value: object) -> str | None:
    return None if value is None else hashlib.sha256(orjson.dumps(value)).hexdigest()[:16]
