"""Bodies of 1 MB hold up neither event loop: what is done with them there takes milliseconds of CPU.

By the thread's own clock, whatever else the machine does. Engine, clients and the other end of the feed live on a loop
in another thread. `tests/bench/monitor_large.py` and `tests/bench/relay/large.py` measure the same from outside.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.exchange import Exchange, Sampled
from proxy.feed import UnixFeedReceiver, UnixFeedSender, max_frame_bytes
from proxy.metrics import RelayCounters
from proxy.relay import serve_relay
from proxy.settings import FeedSettings
from scorers.records import Reason
from tests.bench.monitor_large import ORDINARY, Numbered, arms
from tests.bench.monitor_pairs import exchange
from tests.bench.relay.large import Answering, large_requests
from tests.bench.relay.load import closed_loop
from tests.integration.monitor_world import World, running, until, world_settings
from tests.integration.relay_rig import settings_for

pytestmark = pytest.mark.timeout(120)
LARGE = 10  # exchanges of 1 MB in a run
MOST_S = {"monitor": 0.003, "relay": 0.002}
"""*choice*: several times what a turn that copies 1 MB takes. Scoring a pair with a large body takes up to 30 ms."""


class Turns:
    """The callbacks of one thread's event loop, in CPU of that thread."""

    def __init__(self) -> None:
        self.took: list[tuple[float, str]] = []

    @contextmanager
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        thread, run = threading.get_ident(), asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            began_s = time.thread_time()
            run(handle)
            if threading.get_ident() == thread:
                self.took.append((time.thread_time() - began_s, repr(handle)[:120]))

        with monkeypatch.context() as patch:
            patch.setattr(asyncio.Handle, "_run", timed)
            yield

    def fifth_longest(self) -> tuple[float, str]:
        """Units: seconds. Work that comes with a large body comes LARGE times; what the machine does comes once."""
        return sorted(self.took, reverse=True)[4]


class Aside:
    """A loop in another thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    async def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.loop.call_soon_threadsafe(function, *arguments)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def aside() -> Iterator[Aside]:
    made = Aside()
    yield made
    made.end()


@pytest.mark.parametrize("name", [arm.name for arm in arms() if arm.name != ORDINARY])
@pytest.mark.parametrize("paused", [False, True], ids=["scored", "turned away"])
def test_the_monitors_loop_does_not_work_on_them(
    name: str, paused: bool, aside: Aside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = arms()
    large, *ordinary = next(arm.pairs for arm in every if arm.name == name)
    pairs = [large, *ordinary[:3]] * LARGE
    turns = Turns()

    async def main() -> list[Any]:
        engine = Numbered([pair.reference for arm in every for pair in arm.pairs])
        server, port = await aside.do(engine.listen())
        other, candidate = await aside.do(Numbered().listen())
        urls = [SimpleNamespace(url=f"http://127.0.0.1:{at}") for at in (candidate, port)]
        world = World(world_settings(tmp_path, noise_rate=0.0, replay_rate=0.0, needle_rate=0.0), *urls)
        feed = FeedSettings(socket=tmp_path / "feed.sock")
        receiver = world.receiver(feed)
        sender = UnixFeedSender(feed, worker="w", stats=RelayCounters().snapshot)
        async with running(world):
            await receiver.start()
            await until(lambda: world.monitor.state()["epoch"] and not world.monitor.state()["unreachable"])
            await aside.do(sender.start())
            if paused:
                world.monitor.pause()
            with turns.watched(monkeypatch):
                for number, pair in enumerate(pairs):
                    seen = exchange(pair, number, "w")
                    aside.call(sender.offer, Sampled(seen.id, seen.worker, seen.sequence, seen.at_unix_s))
                    aside.call(sender.offer, seen)
                await until(lambda: receiver.counters.events == 2 * len(pairs) and world.at_rest())
            rows = world.rows()
            await aside.do(sender.aclose(1.0))
            await receiver.aclose()
        for one in (server, other):
            aside.call(one.close)
        return rows

    rows = asyncio.run(main())
    assert len(rows) == len(pairs)
    for row in rows:
        score = row.candidate["tool_call_mismatch"]
        assert score is Reason.PAUSED if paused else isinstance(score, float), row
    took_s, what = turns.fifth_longest()
    assert took_s < MOST_S["monitor"], what


def test_the_relays_loop_neither(aside: Aside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()

    async def main() -> tuple[int, int]:
        server, candidate = await aside.do(Answering().listen())
        all_of_them = {"rate": 1.0, "large_body_rate": 1.0}
        settings = settings_for(f"http://127.0.0.1:{candidate}", sampling=all_of_them)
        feed = FeedSettings(socket=tmp_path / "feed.sock")
        taken: list[Exchange] = []
        receiver = UnixFeedReceiver(
            feed.socket,
            on_event=lambda event: taken.append(event) if isinstance(event, Exchange) else None,
            on_stats=lambda *_: None,
            on_connection=lambda *_: None,
            max_frame_bytes=max_frame_bytes(feed),
        )
        await aside.do(receiver.start())
        counters, shutdown, port = RelayCounters(), asyncio.Event(), asyncio.get_running_loop().create_future()
        sender = UnixFeedSender(feed, worker="w", stats=counters.snapshot)
        await sender.start()
        serving = asyncio.create_task(
            serve_relay(
                settings,
                worker="w",
                feed=sender,
                counters=counters,
                shutdown=shutdown,
                on_listening=lambda _, at: port.set_result(at),
            )
        )
        work = closed_loop(await port, large_requests(), 2, LARGE)
        with turns.watched(monkeypatch):
            seen = await aside.do(work)
            await until(lambda: len(taken) == LARGE)
        shutdown.set()
        await serving
        await sender.aclose(1.0)
        await aside.do(receiver.aclose())
        aside.call(server.close)
        return seen.errors, min(min(len(one.request_body), len(one.response_body)) for one in taken)

    errors, least = asyncio.run(main())
    assert not errors
    assert least > 1_000_000
    took_s, what = turns.fifth_longest()
    assert took_s < MOST_S["relay"], what
