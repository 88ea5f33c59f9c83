"""What happened and where things stand: the history of the verdict, the staged rollout, the monitor itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.monitor.history import Event
from proxy.monitor.page.html import Html, Part, tag
from proxy.monitor.page.shown import Shown
from proxy.monitor.page.words import ago, moment
from proxy.monitor.rows import RESET, ROLLOUT, VERDICT

HISTORY_KINDS = (VERDICT, RESET, ROLLOUT, "pause", "resume")
_SHOWN = 20  # *choice*
_UNMET = {
    "resumed": "the ledger is still being read",
    "ledger_writable": "the ledger cannot be written",
    "relay_connected": "no relay is connected",
    "candidate_reachable": "the candidate does not answer",
    "reference_answers": "the reference does not answer",
}


def history_section(shown: Shown) -> Html:
    """The latest events and openings of epochs, latest first."""
    lines = [(event.at_unix_s, 1, _event(event)) for event in shown.events]
    lines += [
        (one.opened_unix_s, 0, ("epoch", f"{one.epoch} began, inconclusive: {one.reason}", ""))
        for one in shown.openings
    ]
    lines.sort(key=lambda line: line[:2], reverse=True)
    said = [
        tag("li", moment(at), " ", tag("span", word, class_=f"chip {kind}"), " ", told)
        for at, _, (word, told, kind) in lines[:_SHOWN]
    ]
    body: Part = tag("ol", said, class_="history small") if said else tag("p", "Nothing yet.", class_="dim")
    return tag("section", tag("h2", "History"), body, id="history", data_live="true")


def _event(event: Event) -> tuple[str, str, str]:
    """(word, sentence, class of the chip) of an event."""
    told = event.detail
    if event.kind == VERDICT:
        state, stage = str(told.get("state")), str(told.get("stage")).replace("_", " ")
        found = "found so at a start; " if told.get("found") else ""
        return state, f"{stage}, epoch {told.get('epoch')}: {found}{told.get('reason')}", state
    if event.kind == ROLLOUT:
        share = told.get("share")
        served = f", {100.0 * share:.3g} % of the clients at the candidate" if isinstance(share, float) else ""
        return "rollout", f"{told.get('phase')}{served}: {told.get('reason')}", ""
    if event.kind == RESET:
        return "reset", f"an operator reset the evidence of epoch {told.get('epoch')}. {told.get('reason') or ''}", ""
    return event.kind, "the mirror, by an operator", ""


def rollout_section(shown: Shown) -> Part:
    """Where the staged rollout stands; nothing without one."""
    told = shown.state.get("rollout")
    if not isinstance(told, Mapping) or not told:
        return None
    steps = told["steps"]
    at_reference = told["phase"] in ("failed", "aborted")
    here = None if at_reference else told["step"]
    marks = [
        tag("li", f"{100.0 * share:.3g} %", aria_current="step" if number == here else None)
        for number, share in enumerate(steps, 1)
    ]
    at = f"step {told['step']} of {len(steps)}, since {ago(shown.now_unix_s - told['since_unix_s'])}."
    if at_reference:
        share, at = "The reference serves all clients", f"returned at {at}"
    else:
        share = f"The candidate serves {100.0 * told['share']:.3g} % of the clients"
    return tag(
        "section",
        tag("h2", "Staged rollout ", tag("span", told["phase"], class_=f"chip {'bad' if at_reference else 'good'}")),
        tag("p", tag("strong", share), f", {at}"),
        tag("p", "Why: ", told["reason"]),
        tag("ol", marks, class_="steps"),
        _waits_for(told),
        id="rollout",
        data_live="true",
    )


def _waits_for(told: Mapping[str, Any]) -> Part:
    """What ends where it stands, by phase."""
    if told["phase"] == "failed":
        return tag("p", "A new epoch or a reset of the evidence begins at the first step. Nothing else does.")
    if told["phase"] == "aborted":
        return tag("p", "An operator's resume or a reset begins at the first step.")
    if not told["needs"]:
        return None
    return [tag("h3", "What the next step waits for"), tag("ul", [tag("li", need) for need in told["needs"]])]


def _lacks(told: object) -> Part:
    """What the engines cannot do, and what that costs; nothing where they can do all."""
    if not isinstance(told, list) or not told:
        return None
    return [
        tag("h3", "What the engines lack"),
        tag("ul", [tag("li", str(lack["sentence"])) for lack in told], class_="small"),
    ]


def monitor_section(shown: Shown) -> Html:
    """Whether the monitor works, and the one thing to do about it."""
    state = shown.state
    paused = bool(state.get("paused"))
    act = "resume" if paused else "pause"
    unmet = [name for name, holds in shown.readiness.items() if not holds]
    chips: list[Part] = [tag("span", "paused", class_="chip wait") if paused else None]
    chips += [tag("span", _UNMET.get(name, f"not {name.replace('_', ' ')}"), class_="chip bad") for name in unmet]
    if not unmet:
        chips.append(tag("span", "ready", class_="chip good"))
    alarms = [str(alarm) for alarm in state.get("alarms", ())]
    arms = state.get("arms", {})
    for side, health in arms.items() if isinstance(arms, Mapping) else ():
        if health.get("failures_in_a_row"):
            alarms.append(f"{side}, {health['failures_in_a_row']} failed calls in a row: {health.get('last_error')}")
    return tag(
        "section",
        tag("h2", "Monitor"),
        tag("p", [(chip, " ") for chip in chips]),
        tag("ul", [tag("li", alarm) for alarm in alarms]) if alarms else None,
        _lacks(state.get("lacks")),
        tag("form", tag("button", f"{act} the mirror"), method="post", action=f"/mirror/{act}"),
        tag("p", "Clients are served alike, mirrored or not.", class_="small dim"),
        id="monitor",
        data_live="true",
    )
