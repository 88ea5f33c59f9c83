"""Calibration samples from a ledger: the requests that clients sent, with the replies that they got.

Only what the ledger keeps: a uniform share (ledger.keep_share) and every mismatch. A pair that had to be redacted is
left out: the model never sees the word that stands for what went.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.checkpoints.samples import MAX_SAMPLES, canonical, checked
from proxy.monitor.ledger_records import KINDS, inflate
from proxy.monitor.ledger_snapshot import snapshot
from proxy.monitor.redact import REDACTED
from scorers.decode import DecodeError, decode_reply, decode_request
from scorers.records import Choice

KEPT = (
    "SELECT e.path, b.request, b.candidate FROM bodies b JOIN exchanges e ON e.position = b.position "
    f"WHERE e.kind = {KINDS.index('live')} ORDER BY b.position DESC LIMIT {MAX_SAMPLES}"
)


@dataclass(slots=True)
class Traffic:
    """Samples as canonical lines, the latest first, and why others were left out, counted."""

    lines: list[bytes] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def told(self) -> str:
        """One line of what was left out; empty where nothing was."""
        return ", ".join(f"{count} {why}" for why, count in self.left_out.items())


def samples_of(ledger: Path) -> Traffic:
    """What the ledger keeps of what clients asked and were answered. Opened read only.

    Raises:  LedgerError.
    """
    found = Traffic()
    with snapshot(ledger) as connection:
        for path, request, candidate in connection.execute(KEPT):
            one = _sample(path, inflate(request), inflate(candidate))
            if isinstance(one, str):
                found.left_out[one] = found.left_out.get(one, 0) + 1
            else:
                found.lines.append(canonical(one))
    return found


def _sample(path: str, request: bytes, candidate: bytes) -> dict[str, Any] | str:
    """The sample, or why there is none."""
    if REDACTED.encode() in request:
        return "redacted"
    try:
        asked = decode_request(path, request)
    except DecodeError:
        return "not kept whole"  # cut at ledger's bound, or taken out by redaction
    answered = None if REDACTED.encode() in candidate else _reply(asked.kind, candidate)
    try:
        if asked.kind == "chat":
            messages = list(asked.body["messages"])
            if answered is not None:
                messages.append(_message(answered))
            return checked({"messages": messages, "tools": asked.body.get("tools")})
        prompt = asked.body.get("prompt")
        if not isinstance(prompt, str):
            return "prompts as token ids or lists"
        return checked({"text": prompt + (answered.text if answered else "")})
    except (ValueError, TypeError, KeyError):
        return "not a chat of messages"


def _reply(kind: Any, body: bytes) -> Choice | None:
    try:
        choice = decode_reply(kind, "", body, logprobs=False).choices[0] if body else None
    except DecodeError:
        return None
    return choice if choice and (choice.text or choice.tool_calls) else None


def _message(reply: Choice) -> dict[str, Any]:
    """The reply as the message that a later turn would carry."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.tool_calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.tool_calls
        ]
    return message
