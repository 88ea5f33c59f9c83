"""How the page says numbers, moments, strata and reasons: in words that need no manual."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from proxy.monitor.page.html import Html, tag

_LOST = {
    "candidate_error": "the candidate failed to answer the client",
    "candidate_undecodable": "the candidate's reply could not be read",
    "reference_error": "the reference failed to answer",
    "reference_timeout": "the reference did not answer in time",
    "reference_undecodable": "the reference's reply could not be read",
    "breaker_open": "not asked: the reference had failed too often (circuit breaker)",
    "queue_full": "no room: the monitor was behind",
    "paused": "the mirror was paused",
    "late": "not finished in time",
    "epoch_closed": "an arm changed meanwhile",
    "left_empty": "the candidate said nothing where the reference answered",
    "no_usage": "no token counts came with the reply",
    "no_logprobs": "no logprobs came with the reply",
    "engine_lacks": "an engine cannot give what the score needs",
    "tokens_differ": "the two sides counted different tokens",
    "scorer_error": "a scorer failed",
}
_INELIGIBLE = {
    "path": "not a chat or a completion",
    "method": "not a POST",
    "bad_request": "a body that is no JSON request",
    "content_coding": "a coding that we do not read",
    "client_error": "the request was wrong (4xx)",
    "client_closed": "the client went away",
    "sampled_not_replayed": "temperature above 0, and not picked for a replay",
    "served_by_reference": "served by the reference in a rollout, and not picked for a replay",
    "unsupported": "a kind that is not compared (several prompts, audio, ...)",
    "no_score_applies": "no score applies to it",
}
_STRATUM = {
    "tools": "tools offered",
    "plain": "no tools",
    "stream": "streamed",
    "whole": "not streamed",
    "greedy": "temperature 0",
    "sampled": "temperature above 0",
    "unknown": "never read",
    "all": "all requests",
}


def figure(value: float | None, unit: str = "") -> str:
    """A number for people: a ratio in percent, anything else in its unit."""
    if value is None:
        return "unknown" if unit else "none"
    if unit == "ratio":
        return f"{100.0 * value:.3g} %"
    return f"{value:.3g}" + (f" {unit}" if unit else "")


def stratum_words(name: str) -> str:
    """A stratum or a part of one: "prompts of 4k-16k tokens, tools offered"."""
    parts = [_STRATUM.get(part) or f"prompts of {part} tokens" for part in name.split("/")]
    return ", ".join(parts)


def reason_words(reason: str) -> str:
    """Why a sample has no score; a reason that is new to this page as it is written."""
    return _LOST.get(reason) or _INELIGIBLE.get(reason) or reason.replace("_", " ")


def counted(counts: Mapping[str, int]) -> list[str]:
    """Counts with their reasons in words, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return [f"{count:,}: {reason_words(reason)}" for reason, count in ordered]


def moment(unix_s: float) -> Html:
    """A moment in UTC, for people and for machines."""
    at = datetime.fromtimestamp(unix_s, UTC)
    return tag("time", at.strftime("%Y-%m-%d %H:%M:%S"), " UTC", datetime=at.isoformat(timespec="seconds"))


def clock(unix_s: float, span_s: float) -> str:
    """A moment as a picture's axis says it; the day where the picture spans more than one."""
    at = datetime.fromtimestamp(unix_s, UTC)
    if span_s > 86_400.0:
        return at.strftime("%b %d %H:%M")
    return at.strftime("%H:%M:%S" if span_s < 600.0 else "%H:%M")


def ago(seconds: float) -> str:
    """A span in its two largest units: "2 h 5 min"."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts) or "0 s"
