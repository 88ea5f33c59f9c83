"""The four ends of a slot, as rows and as observations."""

from __future__ import annotations

from proxy.monitor.evaluate import Evaluation
from proxy.monitor.order import Slot
from proxy.monitor.plan import TurnedAway
from proxy.monitor.record import ineligible_row, lost_row, scored_row
from proxy.monitor.rows import Ineligible, ScoreRow
from scorers.decode import decode_request
from scorers.records import Reason, Stratum
from tests.unit.monitor_rig import CHAT, exchange

SLOT = Slot(7, "live", "w-3", "w", 3, 100.0, 0.0, 30.0, claimed=True)
CELL = Stratum("0-512", tools=False, stream=False, greedy=True)


def test_a_lost_row_carries_what_is_known() -> None:
    bare = lost_row(SLOT, 2, "late")
    assert (bare.position, bare.epoch, bare.id, bare.worker, bare.sequence) == (7, 2, "w-3", "w", 3)
    assert (bare.disposition, bare.reason, bare.stratum, bare.path) == ("lost", "late", None, "")
    known = lost_row(SLOT, 2, "paused", exchange(3, target=CHAT + "?secret=1"))
    assert (known.path, known.status, known.outcome, known.duration_s) == (CHAT, 200, "complete", 0.2)


def test_an_ineligible_row_has_a_stratum_when_the_request_could_be_read() -> None:
    assert ineligible_row(SLOT, 1, TurnedAway(Ineligible.BAD_REQUEST), exchange(3)).stratum is None
    request = decode_request(CHAT, exchange(3).request_body)
    row = ineligible_row(SLOT, 1, TurnedAway(Ineligible.CLIENT_CLOSED, request), exchange(3))
    assert (row.reason, row.stratum) == ("client_closed", CELL)


def test_a_scored_row_is_an_observation_of_numbers_and_reasons() -> None:
    scores = (ScoreRow("candidate", "a", 0.5, None), ScoreRow("noise", "a", None, Reason.LATE))
    row = scored_row(SLOT, 1, Evaluation(scores, CELL, prompt_tokens=9), exchange(3))
    seen = row.observation()
    assert (row.reason, row.prompt_tokens, row.stratum) == (None, 9, CELL)
    assert (seen.candidate, seen.noise) == ({"a": 0.5}, {"a": Reason.LATE})
    assert scored_row(SLOT, 1, Evaluation(scores, CELL), None).path == ""
