"""The gate's routes on the control port: what `proxy.monitor.gate` answers, over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import FastAPI, HTTPException, Query, Request
from starlette.responses import PlainTextResponse, Response

from proxy.monitor import gate
from proxy.monitor.replies import json_reply, small_body
from proxy.monitor.rows import MonitorView

MAX_HOOK_BYTES = 65536  # *choice*: Flagger's fields, a few lines of metadata, and an event's message of 1 KiB

AskedRecipe = Annotated[str | None, Query(alias="recipe")]


def add_gate(app: FastAPI, view: MonitorView, recipe: str) -> None:
    """Adds the routes under /gate that ask. What changes something, /gate/reset, is not among them."""

    @app.get("/gate")
    async def plain(recipe_asked: AskedRecipe = None) -> Response:
        return json_reply(gate.plain(gate.current(view, recipe), recipe_asked))

    @app.get("/gate/v1/argo")
    async def argo(recipe_asked: AskedRecipe = None) -> Response:
        return json_reply(gate.argo(gate.current(view, recipe), recipe_asked))

    @app.post("/gate/v1/flagger/{hook}")
    async def flagger(request: Request, hook: str, recipe_asked: AskedRecipe = None) -> Response:
        if hook not in gate.FLAGGER_HOOKS:
            return _line(404, "there is no such hook; there are " + ", ".join(gate.FLAGGER_HOOKS))
        try:
            body = await small_body(request, MAX_HOOK_BYTES)
            metadata = {} if hook in gate.FLAGGER_NOTICES else _metadata_in(body)
            refuse_inconclusive = _refuses_inconclusive(metadata)
        except HTTPException as refusal:
            return _line(refusal.status_code, refusal.detail)
        asked = metadata.get("recipe", recipe_asked)
        return _line(*gate.flagger(hook, gate.current(view, recipe), asked, refuse_inconclusive))


def _line(status: int, text: str) -> Response:
    """One line of text, without a line's end: Flagger puts it into an event as it is.

    Flagger makes a new client, with a pool of its own, for each call, and would leave its connection idle for 90 s.
    """
    return PlainTextResponse(text, status, headers={"connection": "close"})


def _metadata_in(body: bytes) -> dict[str, Any]:
    """The webhook's own settings. What we have no use for may be absent or of any shape.

    Raises:  HTTPException when the body is something other than Flagger's.
    """
    try:
        told = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError:
        told = None
    metadata = (told.get("metadata") or {}) if isinstance(told, dict) else None
    if not isinstance(metadata, dict):
        raise HTTPException(400, 'the body must be empty or a JSON object, its "metadata" an object too')
    return metadata


def _refuses_inconclusive(metadata: dict[str, Any]) -> bool:
    """Raises: HTTPException for a word that we do not know: passed over, it would gate otherwise than was meant."""
    word = metadata.get("onInconclusive", "pass")
    if word not in ("pass", "fail"):
        raise HTTPException(400, 'metadata.onInconclusive is "pass" (also when it is absent) or "fail"')
    return bool(word == "fail")
