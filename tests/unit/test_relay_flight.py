"""A flight against transports that uvloop has just closed. All else is tested in tests/integration/test_relay_*.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.metrics import RelayCounters
from proxy.relay.candidate import CandidateConnection, CandidatePool
from proxy.relay.capture import Tee
from proxy.relay.client import ClientConnection
from proxy.relay.worker import Worker
from tests.integration.relay_rig import Feed, chat, settings_for


class Transport(asyncio.Transport):
    """Keeps what is written; once `dead`, behaves as uvloop's does: writing raises, though nobody was told yet."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = False
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        if self.dead:
            raise RuntimeError("the handler is closed")
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.dead

    def abort(self) -> None:
        self.dead = True

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def joined() -> tuple[ClientConnection, Transport, CandidateConnection, Transport, RelayCounters]:
    settings = settings_for("http://candidate:1")
    counters = RelayCounters()
    pool = CandidatePool("http://candidate:1", settings.relay)
    tee = Tee(settings, worker="w", feed=Feed(), counters=counters, salt=b"")
    client = ClientConnection(Worker(settings.relay, pool=pool, tee=tee, counters=counters))
    ours, theirs = Transport(), Transport()
    client.connection_made(ours)
    candidate = CandidateConnection(pool)
    candidate.connection_made(theirs)
    pool.put(candidate, 1e12)
    return client, ours, candidate, theirs, counters


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def test_what_arrives_together_leaves_together() -> None:
    client, ours, candidate, theirs, _ = joined()
    client.data_received(chat(b"{}"))
    assert theirs.written == [chat(b"{}")]
    candidate.data_received(HEAD + b"2\r\nab\r\n1\r\nc\r\n")
    candidate.data_received(b"2\r\nde\r\n0\r\n\r\n")
    assert ours.written == [HEAD + b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n"]


def test_latency_added_is_what_the_relay_took_and_nothing_of_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock moves only where this test lets time pass: 3 s to the candidate, 100 s there, 2 s back."""
    client, ours, candidate, theirs, counters = joined()
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    write = ours.write

    def slow_write(data: bytes) -> None:
        nonlocal now_s
        now_s += 2.0
        write(data)

    monkeypatch.setattr(ours, "write", slow_write)
    client.data_received(chat(b"{}")[:20])
    now_s += 3.0  # the head is not whole
    client.data_received(chat(b"{}")[20:])
    assert theirs.written
    now_s += 100.0
    candidate.data_received(HEAD)
    candidate.data_received(b"2\r\nab\r\n")
    now_s += 50.0
    candidate.data_received(b"0\r\n\r\n")
    added, first_byte = counters.snapshot()["latency_added_s"], counters.snapshot()["first_byte_s"]
    assert (added["sum"], added["count"]) == (5.0, 1)
    assert (first_byte["sum"], first_byte["count"]) == (103.0, 1)


def test_a_request_that_gets_no_reply_has_no_latency_added() -> None:
    client, _, candidate, _, counters = joined()
    client.data_received(chat(b"{}"))
    candidate.data_received(b"garbage")
    assert counters.errors["bad_reply"] == 1
    assert counters.snapshot()["latency_added_s"]["count"] == 0


@pytest.mark.parametrize(
    "arrivals",
    [
        [HEAD],
        [HEAD + b"2\r\nab\r\n"],
        [HEAD + b"2\r\nab\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"],
        [b"garbage"],
    ],
)
def test_reply_to_a_client_that_is_gone_raises_nothing(arrivals: list[bytes]) -> None:
    client, ours, candidate, _, counters = joined()
    client.data_received(chat(b"{}"))
    ours.dead = True
    for data in arrivals:
        candidate.data_received(data)
    client.connection_lost(None)
    assert counters.in_flight == 0


def test_rest_of_a_reply_to_a_client_that_is_gone_raises_nothing() -> None:
    client, ours, candidate, theirs, counters = joined()
    client.data_received(chat(b"{}"))
    candidate.data_received(HEAD + b"2\r\nab\r\n")
    ours.dead = True
    candidate.data_received(b"2\r\ncd\r\n")
    client.connection_lost(None)
    assert (counters.in_flight, counters.client_disconnects) == (0, 1)
    assert theirs.dead


def test_upload_to_a_candidate_that_is_gone_raises_nothing() -> None:
    client, ours, candidate, theirs, counters = joined()
    client.data_received(b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
    theirs.dead = True
    client.data_received(b"c")
    candidate.connection_lost(ConnectionResetError())
    assert counters.in_flight == 0
    assert counters.errors["cut"] == 1
    assert ours.written[0].startswith(b"HTTP/1.1 502 ")
