"""A ledger row for people and for JSON: both replies decoded side by side, raw bodies, each scorer's explanation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from proxy.monitor.calls import beside
from proxy.monitor.probes import CHAT_PATH
from proxy.monitor.recalled import recalled
from proxy.monitor.rows import LedgerRow
from scorers.decode import DecodeError, decode_reply, decode_request
from scorers.records import Choice, DecodedRequest


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
        "reference_answer": row.reference_answer,
        "reference_tokens": {
            count.purpose: {"prefill": count.prefill, "decode": count.decode} for count in row.reference_tokens
        },
        "scores": [
            {"arm": score.arm, "name": score.name, "value": score.value, "reason": score.reason} for score in row.scores
        ],
    }


def side_by_side(row: LedgerRow) -> dict[str, Any]:
    """One pair of `/pairs/{id}`: the summary, each scorer's explanation, and request and replies, decoded and raw.

    A body that cannot be decoded (cut to its bound, redacted, garbage) has `choices` null and `undecodable` says why.
    `calls` lays the first choice's tool calls beside the reference's, `noise_calls` those of the reference's second
    run; `recall` says what the reference copied from far back, and whether the candidate says it too. Each is null
    where there is nothing of the kind.
    """
    answer = summary(row)
    answer["scores"] = [
        {**shown, "explanation": dict(score.explanation)}
        for shown, score in zip(answer["scores"], row.scores, strict=True)
    ]
    bodies = row.bodies
    if bodies is None:
        nothing = ("request", "candidate", "reference", "control", "calls", "noise_calls", "recall")
        return {**answer, **dict.fromkeys(nothing)}
    kind: Literal["chat", "completion"] = "completion" if row.path.startswith("/v1/completions") else "chat"
    asked = _asked(CHAT_PATH if row.kind == "probe" else row.path, bodies.request)
    candidate, reference = _answered(kind, bodies.candidate), _answered(kind, bodies.reference)
    control = None if bodies.control is None else _answered(kind, bodies.control)
    return {
        **answer,
        "request": _request(asked, bodies.request),
        "candidate": _reply(candidate, bodies.candidate),
        "reference": _reply(reference, bodies.reference),
        "control": None if control is None else _reply(control, bodies.control or b""),
        "calls": _calls(asked, candidate, reference),
        "noise_calls": None if control is None else _calls(asked, control, reference),
        "recall": None
        if isinstance(asked, str) or isinstance(candidate, str) or isinstance(reference, str)
        else recalled(asked, candidate, reference),
    }


def _asked(path: str, body: bytes) -> DecodedRequest | str:
    """The request, or why it cannot be read."""
    try:
        return decode_request(path, body)
    except DecodeError as error:
        return str(error)


def _answered(kind: Literal["chat", "completion"], body: bytes) -> tuple[Choice, ...] | str:
    """The choices, or why there are none."""
    if not body:
        return "no reply"
    try:
        return decode_reply(kind, "", body).choices
    except DecodeError as error:
        return str(error)


def _calls(
    asked: DecodedRequest | str, left: tuple[Choice, ...] | str, right: tuple[Choice, ...] | str
) -> list[dict[str, Any]] | None:
    sides = [() if isinstance(side, str) or not side else side[0].tool_calls for side in (left, right)]
    if not any(sides):
        return None
    return beside(sides[0], sides[1], {} if isinstance(asked, str) else asked.tools)


def _request(asked: DecodedRequest | str, body: bytes) -> dict[str, Any]:
    raw = body.decode("utf-8", "replace")
    if isinstance(asked, str):
        return {"prompt": None, "tools": None, "undecodable": asked, "raw": raw}
    return {"prompt": asked.prompt_text, "tools": sorted(asked.tools), "undecodable": None, "raw": raw}


def _reply(answered: tuple[Choice, ...] | str, body: bytes) -> dict[str, Any]:
    raw = body.decode("utf-8", "replace")
    if isinstance(answered, str):
        return {"choices": None, "undecodable": answered, "raw": raw}
    return {"choices": [_choice(choice) for choice in answered], "undecodable": None, "raw": raw}


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": choice.text,
        "reasoning": choice.reasoning,
        "refusal": choice.refusal,
        "tool_calls": [asdict(call) for call in choice.tool_calls],
        "finish_reason": choice.finish_reason,
    }
