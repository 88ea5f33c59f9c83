"""Which arm serves: the share, the stickiness, the silence; and what is held for a fail-over."""

from __future__ import annotations

import logging
import time
from itertools import pairwise
from typing import Any

import pytest

from proxy.exchange import Order, Phase, ServedBy
from proxy.relay.arms import Arms, Spare
from proxy.relay.candidate import CandidatePool
from proxy.relay.head import RequestHead, parse_request
from proxy.relay.refusal import Refusal
from tests.integration.relay_rig import chat, settings_for

STEPS = [{"share": 0.05}, {"share": 0.25}, {"share": 1.0}]


def arms(rollout: dict[str, Any] | None = None, salt: bytes = b"s", recipe: str = "r", **relay: Any) -> Arms:
    tables = {} if rollout is None else {"rollout": {"steps": STEPS, **rollout}}
    settings = settings_for("http://candidate:1", relay, gate={"recipe": recipe}, **tables)
    pools = [CandidatePool(url, settings.relay) for url in ("http://candidate:1", "http://reference:2")]
    return Arms(settings, (pools[0], pools[1]), salt)


def head(*headers: bytes) -> RequestHead:
    raw = chat(b"{}", *headers).partition(b"\r\n\r\n")[0] + b"\r\n"
    return parse_request(raw, authority=b"a", max_headers=100)


def order(share: float, phase: Phase = Phase.STEPPING) -> Order:
    return Order(share, phase, 1)


def served(of: Arms, clients: int, header: bytes = b"Authorization: Bearer %d") -> list[bool]:
    """Whether each client is the candidate's."""
    return [of.choose(head(header % number)) is ServedBy.CANDIDATE for number in range(clients)]


def test_before_the_first_order_the_reference_serves() -> None:
    of = arms({})
    assert served(of, 50) == [False] * 50
    assert of.counters.snapshot()["served"] == {"candidate": 0, "reference": 50}


def test_without_a_rollout_the_candidate_serves_and_no_order_is_needed() -> None:
    of = arms(failover="reference")
    assert served(of, 50) == [True] * 50
    of.sweep(time.monotonic() + 1e6)
    assert served(of, 50) == [True] * 50


def test_a_client_stays_where_it_is_and_a_larger_share_only_adds_clients() -> None:
    of, other = arms({}), arms({})
    before: list[bool] = []
    for share in (0.0, 0.05, 0.25, 0.5, 1.0):
        of.follow(order(share))
        other.follow(order(share))
        now = served(of, 2000)
        assert now == served(of, 2000) == served(other, 2000)
        assert abs(sum(now) / 2000 - share) < 0.03  # three standard deviations at one half
        assert all(later for earlier, later in zip(before, now, strict=False) if earlier)
        before = now


@pytest.mark.parametrize("other", [{"salt": b"t"}, {"recipe": "next"}])
def test_another_salt_or_recipe_begins_with_other_clients(other: dict[str, Any]) -> None:
    one, two = arms({}), arms({}, **other)
    for of in (one, two):
        of.follow(order(0.25))
    assert served(one, 400) != served(two, 400)


def test_the_first_named_header_that_a_request_has_decides() -> None:
    of = arms({"sticky": ["X-Session-Id", "authorization"]})
    of.follow(order(0.5))
    by_session = served(of, 200, b"x-session-id:  %d \r\nAuthorization: Bearer same")
    assert by_session == served(of, 200, b"Authorization: Bearer other\r\nX-SESSION-ID: %d")
    assert len(set(by_session)) == 2
    assert by_session != served(of, 200)
    assert len(set(served(of, 200, b"Authorization: Bearer same\r\nX-Other: %d"))) == 1


def test_requests_that_tell_nothing_of_their_client_are_split_one_by_one() -> None:
    of = arms({"sticky": []})
    of.follow(order(0.5))
    chosen = served(of, 400, b"Authorization: Bearer same\r\nX: %d")
    assert 140 < sum(chosen) < 260  # six standard deviations


def test_an_order_is_logged_when_it_changes_and_a_fail_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    of = arms({})
    with caplog.at_level(logging.INFO):
        for one in (order(0.25), order(0.25), order(0.0, Phase.FAILED)):
            of.follow(one)
    assert [(record.levelname, "25 %" in record.message) for record in caplog.records] == [
        ("INFO", True),
        ("WARNING", False),
    ]
    assert served(of, 50) == [False] * 50
    assert of.counters.snapshot()["share"] == {"max": 0.0}


def test_a_silent_monitor_costs_the_candidate_its_clients_until_it_speaks_again() -> None:
    of = arms({"max_silence_s": 10.0})
    of.follow(order(0.25))
    before, now_s = served(of, 200), time.monotonic()
    of.sweep(now_s + 9.0)
    assert served(of, 200) == before
    of.sweep(now_s + 11.0)
    of.sweep(now_s + 12.0)
    assert served(of, 200) == [False] * 200
    assert of.counters.snapshot()["silences"] == 1
    of.follow(order(0.25))
    assert served(of, 200) == before


@pytest.mark.parametrize(("silence_s", "phase"), [(0.0, Phase.STEPPING), (10.0, Phase.PROMOTED)])
def test_what_was_promoted_or_told_to_stay_stays_in_silence(silence_s: float, phase: Phase) -> None:
    of = arms({"max_silence_s": silence_s})
    of.follow(order(1.0, phase))
    of.sweep(time.monotonic() + 1e6)
    assert served(of, 50) == [True] * 50


def test_only_what_went_to_the_candidate_is_held() -> None:
    assert arms({}).spare(ServedBy.CANDIDATE) is None
    of = arms({}, failover="reference")
    assert of.spare(ServedBy.REFERENCE) is None
    assert of.spare(ServedBy.CANDIDATE) is not None


def test_a_spare_is_whole_or_nothing_and_gives_its_room_back() -> None:
    of = arms(failover="reference", max_failover_bytes=100)
    one, two = Spare(of), Spare(of)
    one.add(b"a" * 40, b"b" * 20)
    two.add(b"c" * 30)
    two.add(b"d" * 30)  # there is no room: what was held goes too
    assert two.use(Refusal.CUT) is None
    third = Spare(of)
    third.add(b"e" * 40)
    assert one.use(Refusal.BAD_REPLY) is None
    assert one.use(Refusal.CUT) == [b"a" * 40, b"b" * 20]
    third.add(b"f" * 60)
    assert third.use(Refusal.CONNECT) == [b"e" * 40, b"f" * 60]
    told = of.counters.snapshot()
    assert (told["failovers"], told["unheld"]) == ({"connect": 1, "cut": 1}, 1)
    assert of.hold(100)


def test_places_are_spread_evenly() -> None:
    of = arms({})
    counts = []
    for share in (0.2, 0.4, 0.6, 0.8):
        of.follow(order(share))
        counts.append(sum(served(of, 3000)))
    assert all(480 < later - earlier < 720 for earlier, later in pairwise([0, *counts, 3000]))
