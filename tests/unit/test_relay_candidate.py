"""The pool's rules, without sockets. Connections are tested on real ones in tests/integration/test_relay_*.py."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from proxy.relay.candidate import CandidateConnection, CandidatePool, ConnectError
from proxy.relay.refusal import Refusal
from proxy.settings import RelaySettings, UpstreamSettings

IDLE_S = RelaySettings().pool_idle_timeout_s


class Transport(asyncio.Transport):
    """A transport that only remembers whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def connection(pool: CandidatePool) -> CandidateConnection:
    made = CandidateConnection(pool)
    made.connection_made(Transport())
    return made


def pool_for(url: str = "http://candidate:8000") -> CandidatePool:
    return CandidatePool(url, RelaySettings())


def test_last_used_is_taken_first() -> None:
    pool = pool_for()
    first, second = connection(pool), connection(pool)
    pool.put(first, 0.0)
    pool.put(second, 1.0)
    assert pool.take(2.0) is second
    assert pool.take(2.0) is first
    assert pool.take(2.0) is None


def test_stale_or_closed_ones_are_never_taken() -> None:
    pool = pool_for()
    stale, closed = connection(pool), connection(pool)
    pool.put(stale, 0.0)
    pool.put(closed, IDLE_S)
    closed.transport.abort()
    assert pool.take(IDLE_S) is None
    assert stale.transport.is_closing()


def test_sweep_closes_the_stale_and_keeps_the_fresh() -> None:
    pool = pool_for()
    stale, fresh = connection(pool), connection(pool)
    pool.put(stale, 0.0)
    pool.put(fresh, 1.0)
    pool.sweep(IDLE_S + 0.5)
    assert (stale.transport.is_closing(), fresh.transport.is_closing()) == (True, False)
    assert pool.take(IDLE_S + 0.5) is fresh


def test_one_that_was_lost_is_forgotten() -> None:
    pool = pool_for()
    lost = connection(pool)
    pool.put(lost, 0.0)
    lost.connection_lost(None)
    assert pool.take(0.0) is None


def test_closed_pool_keeps_nothing() -> None:
    pool = pool_for()
    idle, late = connection(pool), connection(pool)
    pool.put(idle, 0.0)
    pool.close()
    pool.put(late, 0.0)
    assert idle.transport.is_closing()
    assert late.transport.is_closing()
    assert pool.take(0.0) is None


def test_idle_connection_that_speaks_is_closed() -> None:
    pool = pool_for()
    idle = connection(pool)
    pool.put(idle, 0.0)
    idle.data_received(b"HTTP/1.1 200 OK\r\n\r\n")
    assert idle.transport.is_closing()


@pytest.mark.parametrize("url", ["http://candidate:8000", "http://[::1]:8000", "http://candidate"])
def test_authority_is_the_urls(url: str) -> None:
    assert pool_for(url).authority == url.removeprefix("http://").encode()


def test_unknown_name_is_a_connect_error() -> None:
    with pytest.raises(ConnectError) as caught:
        asyncio.run(pool_for("http://name.invalid:1").connect())
    assert caught.value.refusal in (Refusal.CONNECT, Refusal.CONNECT_TIMEOUT)


def test_connection_made_after_it_was_abandoned_is_closed() -> None:
    late = CandidateConnection(pool_for())
    late.abandon()
    late.connection_made(Transport())
    assert late.transport.is_closing()


@pytest.mark.parametrize("host", ["candidate..svc", "a" * 70 + ".svc"])
def test_name_that_cannot_be_looked_up_is_a_connect_failure(host: str) -> None:
    with pytest.raises(ConnectError) as failed:
        asyncio.run(asyncio.wait_for(pool_for(f"http://{host}:8000").connect(), 5.0))
    assert failed.value.refusal is Refusal.CONNECT


@pytest.mark.parametrize(
    "url", ["http://candidate..svc:1", f"http://{'a' * 70}.svc", "http://b\u00fccher.x", "http://a:99999"]
)
def test_url_without_a_host_to_look_up_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        UpstreamSettings(url=url)


@pytest.mark.parametrize(
    "url", ["http://a_b.svc:1", "http://[::1]:8000", "https://xn--bcher-kva.de", "http://127.0.0.1:1"]
)
def test_url_of_every_kind_of_host_is_taken(url: str) -> None:
    assert UpstreamSettings(url=url).url == url
