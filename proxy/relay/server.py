"""Listening, sweeping, draining: one relay worker from its socket to its last reply."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

from proxy.feed import FeedSink
from proxy.metrics import RelayCounters
from proxy.relay.arms import Arms
from proxy.relay.candidate import CandidatePool
from proxy.relay.capture import Tee
from proxy.relay.client import DRAIN_GRACE_S, ClientConnection
from proxy.relay.kernel import raise_open_files
from proxy.relay.worker import Worker
from proxy.settings import RelaySettings, Settings

BACKLOG = 1024  # choice: as many as max_in_flight by default
MAX_SWEEP_INTERVAL_S = 0.25  # choice: a client that left behind paused reading is seen well within 1 s


async def serve_relay(
    settings: Settings,
    *,
    worker: str,
    feed: FeedSink,
    counters: RelayCounters,
    shutdown: asyncio.Event,
    on_listening: Callable[[str, int], None],
    salt: bytes | None = None,
    candidate_tls: ssl.SSLContext | None = None,
) -> None:
    """Serves until `shutdown` is set, then drains; returns when every connection is closed.

    Every bound (max_in_flight, feed.max_capture_bytes, ...) holds per worker.

    `on_listening` is told the address bound, whose port differs from the settings' when that is 0. `salt` is the
    resolved secret of the sampling, the settings' own by default. `candidate_tls` replaces the system's trust.

    Raises:  OSError when the address cannot be bound or the certificate not read.
    """
    relay = settings.relay
    salt = settings.sampling.salt.encode() if salt is None else salt
    tee = Tee(settings, worker=worker, feed=feed, counters=counters, salt=salt)
    pool = CandidatePool(settings.candidate.url, relay, tls=candidate_tls)
    raise_open_files(relay)
    arms = None
    if settings.rollout is not None or relay.failover is not None:
        arms = Arms(settings, (pool, CandidatePool(settings.reference.url, relay)), salt)
        counters.arms = arms.counters
        feed.subscribe(arms.follow)
    lane = Worker(relay, pool=pool, tee=tee, counters=counters, arms=arms)
    tls = _tls_context(relay)
    listening = await _listen(relay.host, relay.port)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: ClientConnection(lane),
        sock=listening,
        backlog=BACKLOG,
        ssl=tls,
        ssl_handshake_timeout=relay.head_timeout_s if tls else None,
        ssl_shutdown_timeout=relay.body_idle_timeout_s if tls else None,  # it has to flush first; we close sooner
    )
    sweeper = _Sweeper(lane, _sweep_interval_s(relay))
    sweeper.start()
    try:
        host, port = listening.getsockname()[:2]
        on_listening(host, port)
        await shutdown.wait()
        lane.draining = True
        backlog = listening.dup()  # what is in it would be reset with the last descriptor
        server.close()
        await _accept_rest(backlog, lane, tls)
        await lane.drain(relay.drain_timeout_s)
    finally:
        server.close()
        sweeper.stop()
        pool.close()
        if arms is not None:
            arms.reference.close()


class _Sweeper:
    """Runs the sweep on a steady beat and measures how late the event loop is."""

    def __init__(self, lane: Worker, interval_s: float) -> None:
        self._lane = lane
        self._interval_s = interval_s
        self._handle: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def start(self) -> None:
        self._due_s = time.monotonic() + self._interval_s
        self._handle = asyncio.get_running_loop().call_later(self._interval_s, self._beat)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _beat(self) -> None:
        now_s = time.monotonic()
        self._lane.counters.observe_loop_lag(max(0.0, now_s - self._due_s))
        self.start()  # first, so that a fault in one sweep cannot end all time limits
        self._lane.sweep(now_s)


def _sweep_interval_s(relay: RelaySettings) -> float:
    shortest_s = min(
        relay.head_timeout_s,
        relay.body_idle_timeout_s,
        relay.keepalive_timeout_s,
        relay.first_byte_timeout_s,
        relay.pool_idle_timeout_s,
    )
    return max(0.01, min(MAX_SWEEP_INTERVAL_S, shortest_s / 4))


async def _listen(host: str, port: int) -> socket.socket:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # many workers on one port
        listening.setblocking(False)
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening


async def _accept_rest(backlog: socket.socket, lane: Worker, tls: ssl.SSLContext | None) -> None:
    """Takes on the connections that the kernel completed before we stopped listening, and ends the listening."""
    accepted = []
    with backlog, suppress(OSError):  # BlockingIOError: there are no more
        while True:
            accepted.append(backlog.accept()[0])
    loop = asyncio.get_running_loop()
    arriving = [
        loop.create_task(loop.connect_accepted_socket(lambda: ClientConnection(lane), connection, ssl=tls))
        for connection in accepted
    ]
    if arriving:
        _, unfinished = await asyncio.wait(arriving, timeout=DRAIN_GRACE_S)
        for handshake in unfinished:
            handshake.cancel()
        await asyncio.gather(*arriving, return_exceptions=True)


def _tls_context(relay: RelaySettings) -> ssl.SSLContext | None:
    if relay.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(relay.tls_certificate, relay.tls_key)
    context.set_alpn_protocols(["http/1.1"])
    return context
