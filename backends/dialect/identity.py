"""What a vLLM answers beside completions: its models, its version, its health, its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias

import orjson

from backends.dialect.ask import check_model, read_object, rendered
from backends.dialect.wire import Request
from backends.dialect.words import P, Tokenizer

_PERMISSION = {
    "id": "modelperm-0000000000000000",
    "object": "model_permission",
    "created": 1_767_225_600,
    "allow_create_engine": False,
    "allow_sampling": True,
    "allow_logprobs": True,
    "allow_search_indices": False,
    "allow_view": True,
    "allow_fine_tuning": False,
    "organization": "*",
    "group": None,
    "is_blocking": False,
}

COMPLETIONS = {"/v1/chat/completions": True, "/v1/completions": False}
"""The paths that generate, and whether they are chats."""

Route: TypeAlias = Callable[[Request], tuple[int, bytes]]
Routes: TypeAlias = Mapping[str, Mapping[str, Route]]


@dataclass(frozen=True, slots=True)
class Identity(Generic[P]):
    """Who answers. Units: created_unix_s seconds."""

    model: str
    root: str
    max_model_len: int
    version: str
    created_unix_s: int
    tokenizer: Tokenizer[P]

    def routes(self) -> Routes:
        """The handlers by path and method; each gives status and body. They raise: ask.Refused."""
        return {
            **{path: {} for path in COMPLETIONS},
            "/v1/models": {"GET": self._models},
            "/version": {"GET": lambda request: (200, orjson.dumps({"version": self.version}))},
            "/health": {"GET": _health},
            "/ping": {"GET": _health, "POST": _health},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
        }

    def _models(self, request: Request) -> tuple[int, bytes]:
        card = {
            "id": self.model,
            "object": "model",
            "created": self.created_unix_s,
            "owned_by": "vllm",
            "root": self.root,
            "parent": None,
            "max_model_len": self.max_model_len,
            "permission": [_PERMISSION],
        }
        return 200, orjson.dumps({"object": "list", "data": [card]})

    def _tokenize(self, request: Request) -> tuple[int, bytes]:
        body = read_object(request.body, request.header(b"content-type"))
        check_model(body, self.model)
        ids = rendered(body, self.tokenizer).ids
        reply = {"count": len(ids), "max_model_len": self.max_model_len, "tokens": ids, "token_strs": None}
        return 200, orjson.dumps(reply)

    def _detokenize(self, request: Request) -> tuple[int, bytes]:
        body = read_object(request.body, request.header(b"content-type"))
        tokens = body.get("tokens")
        ids = [token for token in tokens if type(token) is int and token >= 0] if isinstance(tokens, list) else []
        return 200, orjson.dumps({"prompt": self.tokenizer.decode(ids)})


def answer_plain(routes: Routes, request: Request) -> tuple[int, bytes]:
    """Status and body for everything that is no completion. Raises: ask.Refused."""
    route = routes.get(request.target.partition("?")[0])
    if route is None:
        return 404, b'{"detail":"Not Found"}'
    handler = route.get(request.method)
    if handler is None:
        return 405, b'{"detail":"Method Not Allowed"}'
    return handler(request)


def _health(request: Request) -> tuple[int, bytes]:
    return 200, b""
