"""A ledger row for people and for JSON: both replies decoded side by side, raw bodies, each scorer's explanation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from proxy.monitor.rows import LedgerRow
from scorers.decode import DecodeError, decode_reply, decode_request
from scorers.records import Choice


def summary(row: LedgerRow) -> dict[str, Any]:
    """One line of `/pairs`: all of the row but bodies and explanations."""
    return {
        "id": row.id,
        "kind": row.kind,
        "position": row.position,
        "epoch": row.epoch,
        "sampled_unix_s": row.sampled_unix_s,
        "disposition": row.disposition,
        "reason": row.reason,
        "stratum": None if row.stratum is None else str(row.stratum),
        "path": row.path,
        "status": row.status,
        "outcome": row.outcome,
        "duration_s": row.duration_s,
        "first_byte_s": row.first_byte_s,
        "prompt_tokens": row.prompt_tokens,
        "reference_prompt_tokens": row.reference_prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "scores": [
            {"arm": score.arm, "name": score.name, "value": score.value, "reason": score.reason} for score in row.scores
        ],
    }


def side_by_side(row: LedgerRow) -> dict[str, Any]:
    """One pair of `/pairs/{id}`: the summary, each scorer's explanation, and request and replies, decoded and raw.

    A body that cannot be decoded (cut to its bound, redacted, garbage) has `choices` null and `undecodable` says why.
    """
    answer = summary(row)
    answer["scores"] = [
        {**shown, "explanation": dict(score.explanation)}
        for shown, score in zip(answer["scores"], row.scores, strict=True)
    ]
    bodies = row.bodies
    if bodies is None:
        return {**answer, "request": None, "candidate": None, "reference": None, "control": None}
    kind: Literal["chat", "completion"] = "completion" if row.path.startswith("/v1/completions") else "chat"
    return {
        **answer,
        "request": _request(row.path, bodies.request),
        "candidate": _reply(kind, bodies.candidate),
        "reference": _reply(kind, bodies.reference),
        "control": None if bodies.control is None else _reply(kind, bodies.control),
    }


def _request(path: str, body: bytes) -> dict[str, Any]:
    shown: dict[str, Any] = {"prompt": None, "tools": None, "undecodable": None}
    try:
        decoded = decode_request(path, body)
        shown.update(prompt=decoded.prompt_text, tools=sorted(decoded.tools))
    except DecodeError as error:
        shown["undecodable"] = str(error)
    return {**shown, "raw": body.decode("utf-8", "replace")}


def _reply(kind: Literal["chat", "completion"], body: bytes) -> dict[str, Any]:
    shown: dict[str, Any] = {"choices": None, "undecodable": None}
    if not body:
        shown["undecodable"] = "no reply"
    else:
        try:
            shown["choices"] = [_choice(choice) for choice in decode_reply(kind, "", body).choices]
        except DecodeError as error:
            shown["undecodable"] = str(error)
    return {**shown, "raw": body.decode("utf-8", "replace")}


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": choice.text,
        "reasoning": choice.reasoning,
        "refusal": choice.refusal,
        "tool_calls": [asdict(call) for call in choice.tool_calls],
        "finish_reason": choice.finish_reason,
    }
