"""What the connections of a worker share."""

from __future__ import annotations

import asyncio

import pytest

from proxy.metrics import RelayCounters
from proxy.relay.candidate import CandidatePool
from proxy.relay.capture import Tee
from proxy.relay.worker import Worker
from tests.integration.relay_rig import Feed, settings_for


class Guest:
    """A connection that notes what it is told; it leaves when drained, or only when aborted."""

    def __init__(self, worker: Worker, *, stubborn: bool) -> None:
        self.worker = worker
        self.stubborn = stubborn
        self.told: list[str] = []

    def sweep(self, now_s: float) -> None:
        self.told.append(f"sweep {now_s}")
        self.worker.leave(self)  # leaving while the worker goes through its members must be safe

    def drain(self) -> None:
        self.told.append("drain")
        if not self.stubborn:
            self.worker.leave(self)

    def abort(self) -> None:
        self.told.append("abort")
        self.worker.leave(self)


def worker_for(allow: tuple[str, ...] = ("/health",)) -> Worker:
    settings = settings_for("http://candidate:1", {"allow_paths": allow})
    counters = RelayCounters()
    tee = Tee(settings, worker="w", feed=Feed(), counters=counters, salt=b"")
    return Worker(settings.relay, pool=CandidatePool("http://candidate:1", settings.relay), tee=tee, counters=counters)


def test_paths() -> None:
    worker = worker_for()
    served = [b"/v1/", b"/v1/x", b"/health"]
    refused = [b"/", b"/v1", b"/v2/x", b"/healthz", b"/health/", b"/HEALTH", b"/metrics"]
    assert all(worker.serves(path) for path in served)
    assert not any(worker.serves(path) for path in refused)


def test_members_are_counted_and_swept() -> None:
    worker = worker_for()
    guests = [Guest(worker, stubborn=True) for _ in range(3)]
    for guest in guests:
        worker.join(guest)
    assert worker.counters.connections == 3
    assert not worker.empty.is_set()
    worker.sweep(1.0)
    assert [guest.told for guest in guests] == [["sweep 1.0"]] * 3
    assert worker.counters.connections == 0
    assert worker.empty.is_set()


class FaultyGuest(Guest):
    def sweep(self, now_s: float) -> None:
        raise ValueError("a fault of ours")


def test_a_member_whose_sweep_raises_does_not_starve_the_others(caplog: pytest.LogCaptureFixture) -> None:
    worker = worker_for()
    guests = [Guest(worker, stubborn=True) for _ in range(5)]
    for guest in guests:
        worker.join(FaultyGuest(worker, stubborn=True))
        worker.join(guest)
    worker.sweep(1.0)
    assert [guest.told for guest in guests] == [["sweep 1.0"]] * 5
    assert len(caplog.records) == 5


def test_who_joins_during_the_drain_is_drained() -> None:
    worker = worker_for()
    worker.draining = True
    guest = Guest(worker, stubborn=True)
    worker.join(guest)
    assert guest.told == ["drain"]


def test_drain_returns_at_once_when_all_leave() -> None:
    worker = worker_for()
    guest = Guest(worker, stubborn=False)
    worker.join(guest)
    asyncio.run(asyncio.wait_for(worker.drain(60.0), 5.0))
    assert guest.told == ["drain"]
    assert worker.draining


def test_drain_aborts_who_stays_too_long() -> None:
    worker = worker_for()
    guest = Guest(worker, stubborn=True)
    worker.join(guest)
    asyncio.run(asyncio.wait_for(worker.drain(0.05), 5.0))
    assert guest.told == ["drain", "abort"]
