"""Sender and receiver over a real socket, on both event loops: nothing lost uncounted, whatever the monitor does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxy.errors import FeedError
from proxy.exchange import Exchange, LossReason, Lost, Order, Outcome, Phase, RelayEvent, Sampled
from proxy.feed import UnixFeedReceiver, UnixFeedSender, max_frame_bytes, wire
from proxy.feed import receiver as receiver_room
from proxy.settings import FeedSettings

pytestmark = pytest.mark.timeout(60)
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine on a loop of each kind."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feed") / "s"


async def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Returns once the condition holds. Units: seconds."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - conditions of many kinds, polled against a deadline
            await asyncio.sleep(0.005)


def there(path: Path) -> bool:
    return path.exists()


def gone(path: Path) -> None:
    path.unlink(missing_ok=True)


def exchange(sequence: int, body: bytes = b"{}") -> Exchange:
    head = ((b"content-type", b"application/json"),)
    return Exchange(
        f"id{sequence}", "w1", sequence, 1.5, "POST", "/v1/x", head, body, 200, head, body, Outcome.COMPLETE, 0.1, 0.2
    )


def settings(path: Path, **more: Any) -> FeedSettings:
    return FeedSettings(socket=path, reconnect_interval_s=0.02, **more)


@dataclass
class Monitor:
    """A receiver that remembers what it was told."""

    path: Path
    frame_bytes: int = 1 << 26
    events: list[RelayEvent] = field(default_factory=list)
    stats: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    workers: list[tuple[str, bool]] = field(default_factory=list)
    on_event: Callable[[RelayEvent], None] | None = None

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[UnixFeedReceiver]:
        receiver = UnixFeedReceiver(
            self.path,
            on_event=self.on_event or self.events.append,
            on_stats=lambda worker, values: self.stats.append((worker, values)),
            on_connection=lambda worker, there: self.workers.append((worker, there)),
            max_frame_bytes=self.frame_bytes,
        )
        await receiver.start()
        try:
            yield receiver
        finally:
            await receiver.aclose()


@contextlib.asynccontextmanager
async def sender(feed: FeedSettings, flush_s: float = 5.0, **more: Any) -> AsyncIterator[UnixFeedSender]:
    link = UnixFeedSender(feed, worker="w1", stats=more.pop("stats", lambda: {"sampled": 7}), **more)
    await link.start()
    try:
        yield link
    finally:
        await link.aclose(flush_s)
        counters = link.counters
        assert counters.offered == counters.sent + sum(counters.dropped.values()), counters
        assert (counters.queued, counters.queue_bytes, counters.queue_exchanges) == (0, 0, 0)


def test_events_arrive_whole_and_in_order_between_hello_and_goodbye(run: Run, path: Path) -> None:
    async def main() -> None:
        monitor = Monitor(path)
        sent: list[RelayEvent] = []
        for n in range(300):
            sent += [Sampled(f"id{n}", "w1", n, 2.0), exchange(n, os.urandom(n * 700))]
        sent.append(Lost("id9", "w1", 999, LossReason.RESPONSE_TOO_LARGE))
        async with monitor.up() as receiver:
            async with sender(settings(path, max_queue_bytes=1 << 28)) as link:
                await until(lambda: link.connected)
                assert all(link.offer(event) for event in sent)
            await until(lambda: monitor.workers == [("w1", True), ("w1", False)])
            assert receiver.counters.events == len(sent)
        assert monitor.events == sent
        assert monitor.stats[-1][1]["sampled"] == 7
        assert monitor.stats[-1][1]["feed"]["sent"] == len(sent)  # the last word has the final counts

    run(main())


def test_a_body_of_the_largest_size_crosses(run: Run, path: Path) -> None:
    async def main() -> None:
        feed = settings(path)
        monitor = Monitor(path, frame_bytes=max_frame_bytes(feed))
        request, reply = b"q" * feed.max_request_bytes, b"r" * feed.max_response_bytes
        large = Exchange("i", "w1", 1, 0.0, "POST", "/", (), request, 200, (), reply, Outcome.COMPLETE, None, 1.0)
        async with monitor.up(), sender(feed) as link:
            assert link.offer(large)
            await until(lambda: len(monitor.events) == 1)
            assert monitor.events == [large]

    run(main())


def test_a_monitor_that_comes_late_gets_what_was_kept_for_it(run: Run, path: Path) -> None:
    async def main() -> None:
        monitor = Monitor(path)
        async with sender(settings(path, max_queue_exchanges=3)) as link:
            assert not link.connected
            assert [link.offer(exchange(n)) for n in range(5)] == [True, True, True, False, False]
            assert link.counters.dropped == {LossReason.FEED_DOWN: 2}
            async with monitor.up():
                await until(lambda: len(monitor.events) == 5)
        lost = [Lost(f"id{n}", "w1", n, LossReason.FEED_DOWN) for n in (3, 4)]
        assert monitor.events == [*(exchange(n) for n in range(3)), *lost]

    run(main())


def test_a_paused_monitor_fills_the_bounds_and_then_only_counts(run: Run, path: Path) -> None:
    async def main() -> None:
        monitor = Monitor(path)
        body = b"x" * 200_000
        feed = settings(path, max_queue_bytes=10 * exchange(0, body).size_bytes)
        async with monitor.up() as receiver, sender(feed) as link:
            await until(lambda: bool(monitor.workers))
            receiver.pause()
            offers = []
            for n in range(200):
                offers.append(link.offer(exchange(n, body)))
                await asyncio.sleep(0)
            assert offers == [True] * 10 + [False] * 190
            assert link.counters.queue_bytes <= feed.max_queue_bytes
            assert link.counters.dropped == {LossReason.FEED_FULL: 190}
            assert monitor.events == []
            receiver.resume()
            await until(lambda: len(monitor.events) == 200)
            assert monitor.events[:10] == [exchange(n, body) for n in range(10)]
            assert all(isinstance(event, Lost) for event in monitor.events[10:])

    run(main())


def test_pausing_from_within_a_callback_stops_at_once_and_loses_nothing(run: Run, path: Path) -> None:
    async def main() -> None:
        monitor = Monitor(path)
        seen: list[int] = []

        def take(event: RelayEvent) -> None:
            seen.append(event.sequence)
            if event.sequence % 50 == 0:
                receiver.pause()

        monitor.on_event = take
        async with monitor.up() as receiver, sender(settings(path)) as link:
            for n in range(1, 201):
                link.offer(exchange(n))
            for stop in (50, 100, 150, 200):
                await until(lambda stop=stop: seen[-1:] == [stop])  # type: ignore[misc]
                for _ in range(10):
                    await asyncio.sleep(0)
                assert seen == list(range(1, stop + 1))
                receiver.resume()

    run(main())


def test_a_paused_monitor_holds_nothing_of_a_peer_that_sends_on_regardless(run: Run, path: Path) -> None:
    async def main() -> None:
        mark = b"".join(wire.encode(Sampled("i", "w", 1, 0.0)))
        async with Monitor(path).up() as receiver:
            receiver.pause()
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"".join(wire.encode(wire.Hello("w", 1))) + mark * 100_000)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.5)
            receiver.resume()
            await writer.drain()
            writer.close()

    run(main())


def test_a_flood_leaves_the_monitors_loop_alive(run: Run, path: Path) -> None:
    async def main() -> None:
        turns = 0
        between: list[int] = []  # which turn of the loop each event came in
        monitor = Monitor(path, on_event=lambda event: between.append(turns))
        async with monitor.up(), sender(settings(path)) as link:
            for n in range(10_000):
                link.offer(Sampled("id", "w1", n, 0.0))
            async with asyncio.timeout(20):
                while len(between) < 10_000:
                    turns += 1
                    await asyncio.sleep(0)
        most = max(between.count(turn) for turn in set(between))
        assert most <= 2 * receiver_room.EVENTS_PER_TURN

    run(main())


def test_what_a_monitor_had_not_acknowledged_is_sent_again_to_the_next(run: Run, path: Path) -> None:
    async def main() -> None:
        first, second = Monitor(path), Monitor(path)
        async with sender(settings(path)) as link:
            async with first.up() as receiver:
                await until(lambda: bool(first.workers))
                link.offer(exchange(0))
                await until(lambda: link.counters.sent == 1)
                receiver.pause()
                for n in range(1, 6):
                    link.offer(exchange(n))
            async with second.up():
                await until(lambda: len(second.events) == 5)
        assert first.events == [exchange(0)]
        assert second.events == [exchange(n) for n in range(1, 6)]
        assert first.workers == [("w1", True), ("w1", False)]

    run(main())


CHILD = """
import asyncio, pathlib, sys
from proxy.feed import UnixFeedReceiver

async def main():
    receiver = UnixFeedReceiver(
        pathlib.Path(sys.argv[1]),
        on_event=lambda event: print(event.sequence, flush=True),
        on_stats=lambda *_: None, on_connection=lambda *_: None, max_frame_bytes=1 << 26,
    )
    await receiver.start()
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def monitor_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def test_a_monitor_killed_and_restarted_gets_every_event_at_least_once(run: Run, path: Path) -> None:
    async def main() -> None:
        seen: set[int] = set()
        async with sender(settings(path)) as link:
            for round_number in range(3):
                with monitor_process(path) as child:
                    await until(lambda: link.connected)
                    start = round_number * 100
                    for n in range(start, start + 100):
                        assert link.offer(exchange(n, b"z" * 5000))
                        await asyncio.sleep(0)
                    await until(lambda start=start: link.counters.sent > start + 20)  # type: ignore[misc]
                    child.send_signal(signal.SIGKILL)
                    await asyncio.to_thread(child.wait)
                    assert child.stdout is not None
                    lines = await asyncio.to_thread(child.stdout.read)
                    seen.update(int(line) for line in lines.split("\n")[:-1])
                await until(lambda: not link.connected)
            monitor = Monitor(path)
            async with monitor.up():  # over the dead one's socket file
                await until(lambda: link.counters.sent == 300 and link.counters.connections == 4)
            seen.update(event.sequence for event in monitor.events)
        assert seen == set(range(300))

    run(main())


def test_a_stopped_monitor_process_only_fills_the_bounds(run: Run, path: Path) -> None:
    async def main() -> None:
        body = b"z" * 100_000
        feed = settings(path, max_queue_exchanges=20)
        with monitor_process(path) as child:
            async with sender(feed, flush_s=0.05) as link:
                await until(lambda: link.connected)
                child.send_signal(signal.SIGSTOP)
                for n in range(500):
                    link.offer(exchange(n, body))
                    await asyncio.sleep(0)
                assert link.counters.queue_exchanges == 20
                assert link.counters.dropped[LossReason.FEED_FULL] == 480
            assert link.counters.dropped[LossReason.FEED_DOWN] == 20  # the flush was bounded

    run(main())


def test_an_event_that_every_monitor_chokes_on_does_not_hold_up_the_others(run: Run, path: Path) -> None:
    async def main() -> None:
        monitor = Monitor(path, frame_bytes=50_000)  # a monitor of other settings than the relay's
        async with monitor.up() as receiver, sender(settings(path)) as link:
            link.offer(exchange(1, b"x" * 60_000))
            link.offer(exchange(2))
            await until(lambda: len(monitor.events) >= 2)
            assert receiver.counters.malformed == 3
        assert monitor.events == [exchange(2), Lost("id1", "w1", 1, LossReason.FEED_DOWN)]

    run(main())


def test_a_full_monitor_process_is_one_monitor_and_a_second_is_refused(run: Run, path: Path) -> None:
    async def main() -> None:
        async with Monitor(path).up():
            with pytest.raises(FeedError, match="another process listens"):
                async with Monitor(path).up():
                    pass
            assert there(path)
        assert not there(path)

    run(main())


def test_closing_leaves_another_monitors_socket_alone(run: Run, path: Path) -> None:
    async def main() -> None:
        async with Monitor(path).up():
            gone(path)
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(path))
        assert there(path)

    run(main())


BAD = {
    "no hello": b"".join(wire.encode(Sampled("i", "w", 1, 0.0))),
    "oversize": struct.pack("!IB", 1 << 27, 4),
    "empty": struct.pack("!IB", 0, 4),
    "another protocol": struct.pack("!IBII", 9, 1, 99, 1),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "two hellos": b"".join(wire.encode(wire.Hello("evil", 1))) * 2,
    "garbage after hello": b"".join(wire.encode(wire.Hello("evil", 1))) + b"\x00\x00\x00\x04\x04abc",
}


def test_malformed_peers_are_closed_and_counted_and_disturb_nobody(run: Run, path: Path) -> None:
    async def main() -> None:
        monitor = Monitor(path)
        async with monitor.up() as receiver, sender(settings(path)) as link:
            for number, bad in enumerate(BAD.values(), start=1):
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(bad)
                try:
                    assert await asyncio.wait_for(reader.read(), 5) == b""
                except ConnectionResetError:
                    pass
                writer.close()
                assert receiver.counters.malformed == number
                link.offer(exchange(number))
            await until(lambda: len(monitor.events) == len(BAD))
            assert link.counters.connections == 1
        evil = [there for worker, there in monitor.workers if worker == "evil"]
        assert evil == [True, False] * 2

    run(main())


def test_a_peer_that_says_nothing_is_closed(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(receiver_room, "HELLO_TIMEOUT_S", 0.05)
        async with Monitor(path).up() as receiver:
            reader, writer = await asyncio.open_unix_connection(str(path))
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            assert receiver.counters.refused == 1

    run(main())


def test_more_connections_than_the_bound_are_refused(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(receiver_room, "MAX_CONNECTIONS", 2)
        async with Monitor(path).up() as receiver:
            pairs = [await asyncio.open_unix_connection(str(path)) for _ in range(3)]
            await until(lambda: receiver.counters.refused == 1)
            pairs[0][1].close()
            await until(lambda: len(receiver._connections) == 1)
            pairs.append(await asyncio.open_unix_connection(str(path)))
            await until(lambda: receiver.counters.connections == 3)
            for _, writer in pairs:
                writer.close()

    run(main())


def test_a_peer_that_never_reads_its_acknowledgements_is_closed(run: Run, path: Path) -> None:
    async def main() -> None:
        mark = b"".join(wire.encode(Sampled("i", "w", 1, 0.0)))
        async with Monitor(path).up() as receiver:
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.transport.pause_reading()
            with contextlib.suppress(ConnectionError):
                writer.write(b"".join(wire.encode(wire.Hello("w", 1))))
                while not writer.transport.is_closing():
                    writer.write(mark * 65)
                    await writer.drain()
                    await asyncio.sleep(0)
            await until(lambda: not receiver._connections)
            assert receiver.counters.malformed == 1
            writer.close()

    run(main())


def test_a_callback_that_raises_costs_its_own_event_only(run: Run, path: Path) -> None:
    async def main() -> None:
        seen: list[int] = []

        def take(event: RelayEvent) -> None:
            if event.sequence == 2:
                raise ValueError("planted")
            seen.append(event.sequence)

        monitor = Monitor(path, on_event=take)
        async with monitor.up() as receiver, sender(settings(path)) as link:
            for n in range(1, 5):
                link.offer(exchange(n))
            await until(lambda: link.counters.sent == 4)
            assert (seen, receiver.counters.callback_errors) == ([1, 3, 4], 1)

    run(main())


@pytest.mark.parametrize("lies", [(1000,), (1, 0)], ids=["too many", "going down"])
def test_false_acknowledgements_break_that_connection_only(run: Run, path: Path, lies: tuple[int, ...]) -> None:
    async def main() -> None:
        liars = 0

        async def liar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal liars
            liars += 1
            if liars > 1:
                writer.close()
                return
            await reader.readexactly(200)  # past the hello: the event is on its way
            for number, lie in enumerate(lies, start=1):
                writer.write(wire.ACK.pack(lie))
                if number < len(lies):
                    await until(lambda: link.counters.sent == 1)  # so that each arrives alone
            with contextlib.suppress(ConnectionError):
                while await reader.read(1024):
                    pass
            writer.close()

        server = await asyncio.start_unix_server(liar, str(path))
        async with sender(settings(path)) as link:
            link.offer(exchange(1))
            await until(lambda: liars >= 2)
            server.close()
            await server.wait_closed()
            await until(lambda: not link.connected)
            gone(path)
            monitor = Monitor(path)
            async with monitor.up():
                link.offer(exchange(2))
                await until(lambda: monitor.events[-1:] == [exchange(2)])

    run(main())


def test_statistics_that_cannot_be_sent_do_not_stop_the_events(run: Run, path: Path) -> None:
    async def main() -> None:
        monitor = Monitor(path)
        async with monitor.up(), sender(settings(path), stats=lambda: {"bad": object()}, stats_interval_s=0.01) as link:
            await until(lambda: len(monitor.stats) > 3)
            link.offer(exchange(1))
            await until(lambda: monitor.events == [exchange(1)])
        assert set(monitor.stats[-1][1]) == {"feed"}

    run(main())


def test_a_closed_feed_drops_and_counts(run: Run, path: Path) -> None:
    async def main() -> None:
        async with sender(settings(path), flush_s=0.01) as link:
            link.offer(exchange(1))
        assert not link.offer(exchange(2))
        assert link.counters.dropped == {LossReason.FEED_DOWN: 2}
        await link.aclose(1)

    run(main())


def test_orders_reach_every_worker_in_turn_with_the_acknowledgements(run: Run, path: Path) -> None:
    async def main() -> None:
        monitor = Monitor(path)
        async with monitor.up() as receiver, sender(settings(path)) as link:
            heard: list[Order] = []
            link.subscribe(heard.append)
            await until(lambda: link.connected and monitor.workers != [])
            said = [Order(n / 100, Phase.STEPPING, 1) for n in range(100)]
            for number, order in enumerate(said):
                link.offer(exchange(number))
                receiver.order(order)
                if number % 10 == 0:
                    await until(lambda number=number: link.counters.sent > number)  # type: ignore[misc]
            await until(lambda: link.counters.sent == 100 and len(heard) == 100)
            assert heard == said

    run(main())


def test_a_worker_that_comes_later_hears_the_order_that_holds(run: Run, path: Path) -> None:
    async def main() -> None:
        heard: list[Order] = []
        order = Order(0.25, Phase.PAUSED, 2)
        async with sender(settings(path)) as link:
            link.subscribe(heard.append)
            for _ in range(2):  # and again from the next monitor
                monitor = Monitor(path)
                async with monitor.up() as receiver:
                    receiver.order(order)
                    await until(lambda: bool(heard))
                assert heard == [order]
                heard.clear()

    run(main())


def test_an_order_that_cannot_be_read_breaks_that_connection_only(run: Run, path: Path) -> None:
    async def main() -> None:
        connections = 0

        async def liar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            writer.write(b"\xff" * wire.ACK.size)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(liar, str(path))
        heard: list[Order] = []
        async with sender(settings(path)) as link:
            link.subscribe(heard.append)
            await until(lambda: connections >= 2)
            server.close()
            await server.wait_closed()
        assert heard == []

    run(main())


@pytest.mark.parametrize("turns", range(4))
def test_closing_at_the_moment_at_which_the_connection_ends_returns(run: Run, path: Path, turns: int) -> None:
    async def main() -> None:
        async with Monitor(path).up(), sender(settings(path)) as link:
            await until(lambda: link.connected)
            assert link._link is not None
            link._link.lost.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(5.0):
                await link.aclose(0.0)

    run(main())
