"""The page's routes on the control port: what `proxy.monitor.page` draws, read from the ledger in a thread.

Every read has a bound, so that a million rows cost the page no more than a thousand. A filter that few of the
kept pairs meet looks through them all, a microsecond each, in its thread. The monitor's loop waits for no read; what it
shares with the drawing is the interpreter, for some milliseconds a page.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, HTTPException, Path, Query, Request
from starlette.responses import HTMLResponse, Response

from proxy.errors import LedgerError
from proxy.monitor import gate
from proxy.monitor.history import Event, since
from proxy.monitor.page import (
    HISTORY_KINDS,
    Filter,
    Shown,
    Steps,
    broken,
    over_position,
    overview,
    pair_page,
    parts_of,
    worst_stratum,
)
from proxy.monitor.readable import side_by_side, summary
from proxy.monitor.replies import json_reply, wants_html
from proxy.monitor.rows import LedgerRow, MonitorView, Opening
from scorers.planning import upper_bound
from scorers.records import Reason
from scorers.verdict import Verdict

PAGE_PAIRS = 20  # DESIGN 2.7: sample 20 and show them side by side
REFRESH_S = (5, 3600)  # *choice*
HISTORY_EVENTS = 200  # *choice*: how far back since when is looked for
LATEST_ROWS = 2_000  # *choice*: from which a stratum is named where a budget keeps none apart; some 20 ms
KEPT_BOUNDS = 16_384  # *choice*: bounds of points that were drawn before; each costs a fifth of a millisecond
MAX_WORD_CHARS = 64

Position = Annotated[int | None, Query(ge=0, le=2**63 - 1)]  # SQLite's largest
Word = Annotated[str | None, Query(max_length=MAX_WORD_CHARS)]


class PairSource(Protocol):
    """What the pages read of the ledger. Calls block and raise LedgerError."""

    def pairs(
        self,
        *,
        limit: int,
        before: int | None = None,
        after: int | None = None,
        score: str | None = None,
        stratum: str | None = None,
        mismatched: bool = False,
    ) -> list[LedgerRow]: ...

    def pair(self, id: str, kind: Literal["live", "probe"] | None = None) -> LedgerRow | None: ...

    def events(self, limit: int, kinds: Sequence[str]) -> Sequence[Event]: ...

    def epoch_openings(self) -> Sequence[Opening]: ...

    def sampled_at(self, positions: Sequence[int]) -> Mapping[int, float]: ...

    def latest_scores(self, epoch: int, limit: int) -> Sequence[tuple[str, Mapping[str, float | Reason]]]: ...


def add_pages(app: FastAPI, view: MonitorView, ledger: PairSource, recipe: str) -> None:
    """Adds `/`, `/pairs` and `/pairs/{id}`."""
    bound = lru_cache(KEPT_BOUNDS)(upper_bound)

    @app.get("/")
    async def page(
        refresh: Annotated[int | None, Query(ge=REFRESH_S[0], le=REFRESH_S[1])] = None,
        score: Word = None,
        stratum: Word = None,
        before: Position = None,
        every: bool = False,
    ) -> Response:
        verdict, course = gate.current(view, recipe), view.course()
        chosen = Filter(score or None, stratum or None, every)

        def drawn(readiness: Mapping[str, bool], state: Mapping[str, Any]) -> str:
            try:
                read, trouble = _read(ledger, verdict, chosen, before), None
            except LedgerError as error:
                read, trouble = {}, str(error)
            return overview(
                Shown(
                    verdict=verdict,
                    readiness=readiness,
                    state=state,
                    now_unix_s=time.time(),
                    course=course,
                    filter=chosen,
                    refresh_s=refresh,
                    trouble=trouble,
                    bound=bound,
                    **read,
                )
            )

        return HTMLResponse(await asyncio.to_thread(drawn, view.readiness(), view.state()))

    @app.get("/pairs")
    async def pairs(
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        before: Position = None,
        score: Word = None,
        stratum: Word = None,
        mismatched: bool = False,
    ) -> Response:
        rows = await asyncio.to_thread(
            ledger.pairs, limit=limit, before=before, score=score, stratum=stratum, mismatched=mismatched
        )
        return json_reply([summary(row) for row in rows])

    @app.get("/pairs/{id}")
    async def pair(
        request: Request,
        id: Annotated[str, Path(max_length=128)],
        kind: Annotated[Literal["live", "probe"] | None, Query()] = None,
        score: Word = None,
        stratum: Word = None,
        every: bool = False,
    ) -> Response:
        row = await asyncio.to_thread(ledger.pair, id, kind)
        if row is None:
            raise HTTPException(404, "no such pair: unknown, its bodies were not kept, or they have been pruned")
        if not wants_html(request):
            return json_reply(await asyncio.to_thread(side_by_side, row))
        limits = {name: (budget.limit, budget.unit) for name, budget in gate.current(view, recipe).budgets.items()}
        chosen = Filter(score or None, stratum or None, every)

        def drawn() -> str:
            return pair_page(side_by_side(row), _steps(ledger, row.position, chosen), limits)

        return HTMLResponse(await asyncio.to_thread(drawn))


def _read(ledger: PairSource, verdict: Verdict, chosen: Filter, before: int | None) -> dict[str, Any]:
    """The ledger's part of the overview. Raises: LedgerError."""
    asked: dict[str, Any] = {"score": chosen.score, "stratum": chosen.stratum, "mismatched": not chosen.every}
    pairs = ledger.pairs(limit=PAGE_PAIRS, before=before, **asked)
    events, openings = ledger.events(HISTORY_EVENTS, HISTORY_KINDS), ledger.epoch_openings()
    over = broken(verdict)
    rows = ledger.latest_scores(verdict.epoch, LATEST_ROWS) if over and verdict.epoch is not None else []
    parts = {budget.name: parts_of(rows, budget.name) for budget in over}
    first: dict[str, Mapping[str, Any]] = {}
    for budget in over:
        where = worst_stratum(budget, parts[budget.name])
        found = ledger.pairs(limit=1, score=budget.name, stratum=where, mismatched=True) or ledger.pairs(
            limit=1, score=budget.name, mismatched=True
        )
        if found:
            first[budget.name] = summary(found[0])
    lanes = [lane for budget in over for lane in (budget.lane, *budget.strata.values())]
    return {
        "pairs": [summary(row) for row in pairs],
        "full": len(pairs) == PAGE_PAIRS,
        "events": events,
        "openings": openings,
        "since": since(verdict, events, openings),
        "times": ledger.sampled_at([at for lane in lanes if (at := over_position(lane)) is not None]),
        "parts": parts,
        "first": first,
    }


def _steps(ledger: PairSource, position: int, chosen: Filter) -> Steps:
    """The neighbours of a pair among those that the filter chooses. Raises: LedgerError."""
    asked: dict[str, Any] = {"score": chosen.score, "stratum": chosen.stratum, "mismatched": not chosen.every}
    latest = [row.position for row in ledger.pairs(limit=PAGE_PAIRS, **asked)]
    newer, older = ledger.pairs(limit=1, after=position, **asked), ledger.pairs(limit=1, before=position, **asked)
    return Steps(
        filter=chosen,
        newer=summary(newer[0]) if newer else None,
        older=summary(older[0]) if older else None,
        number=latest.index(position) + 1 if position in latest else None,
        of=len(latest),
    )
