"""What the control port's routes share: a JSON reply, a request body that has a bound, and who wants a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import HTTPException, Request
from starlette.responses import Response


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A reply with `value` as JSON."""
    try:
        body = orjson.dumps(value)
    except TypeError:
        # A client's own numbers past 64 bits or lone surrogates, quoted in an explanation: slower, and it can.
        body = json.dumps(value, default=str).encode()
    return Response(body, status, headers=dict(headers or {}), media_type="application/json")


async def small_body(request: Request, max_bytes: int) -> bytes:
    """The request's body; no more than `max_bytes` of it and one chunk are ever held.

    Raises:  HTTPException 413 past them.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
    return body


def wants_html(request: Request) -> bool:
    """True for a browser. JSON is what a caller gets who does not ask."""
    return "text/html" in request.headers.get("accept", "")
