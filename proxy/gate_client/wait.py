"""Asks a gate again and again, until it is decided or the time is up."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import httpx

from proxy.gate_client.ask import REQUEST_TIMEOUT_S, Answer, Gate, NoAnswer, ask

LAST_LOOK_S = 1.0  # *choice*: what the look at the very end may take, and so the whole beyond its time

_NUMBER = re.compile(r"\d[\d.,]*")


def wait(
    client: httpx.Client,
    gate: Gate,
    *,
    timeout_s: float,
    interval_s: float,
    on_look: Callable[[Answer | NoAnswer], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Answer | NoAnswer:
    """A pass or a fail; else, after `timeout_s`, the latest verdict; or, without any, why the gate could not be asked.

    A monitor that cannot be reached, restarts or is busy is asked again; what asking again does not mend, a wrong
    token say, ends the wait. `on_look` is told what each question brought.
    """
    until_s = clock() + timeout_s
    latest: Answer | None = None
    while True:
        found = ask(client, gate, max(min(REQUEST_TIMEOUT_S, until_s - clock()), LAST_LOOK_S))
        on_look(found)
        if isinstance(found, Answer):
            latest = found
            if found.verdict != "inconclusive":
                return found
        elif not found.passing:
            return found
        left_s = until_s - clock()
        if not left_s > 0:
            return found if latest is None else latest
        sleep(min(left_s, interval_s))


def shape(found: Answer | NoAnswer) -> str:
    """What was found, less its figures: a line that only counts on is no news."""
    said = f"{found.verdict}: {found.reason}" if isinstance(found, Answer) else found.why
    return _NUMBER.sub("#", said)
