"""Real child processes: restarted, given up, drained in order, and gone when the supervisor is killed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proxy.errors import SupervisorError
from proxy.supervisor import Child, Policy, supervise

pytestmark = pytest.mark.timeout(60)
Run = Callable[[Coroutine[Any, Any, None]], None]
LOG = logging.getLogger("test")
QUICK = Policy(first_pause_s=0.01, max_pause_s=0.05, settled_s=30.0, give_up_after=3)
READY = (
    "import json, os, signal, sys, time; print(json.dumps({'event': 'listening', 'pid': os.getpid()}), flush=True)\n"
)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine on a loop of each kind."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


def child(name: str, code: str, *, critical: bool = True) -> Child:
    return Child(name, [sys.executable, "-c", READY + textwrap.dedent(code)], critical)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


SLEEP = "time.sleep(60)"


class Starts:
    """Who became ready, in order, with which process id; and a way to wait for it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self._more = asyncio.Event()

    def __call__(self, name: str, info: dict[str, Any]) -> None:
        self.seen.append((name, info["pid"]))
        self._more.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.seen) < count:
                self._more.clear()
                await self._more.wait()

    def pids(self, name: str) -> list[int]:
        return [pid for who, pid in self.seen if who == name]


def test_whatever_is_killed_comes_back_and_the_others_are_not_touched(run: Run) -> None:
    async def main() -> None:
        starts, shutdown, output = Starts(), asyncio.Event(), list[str]()
        family = [child("relay-0", SLEEP), child("relay-1", SLEEP), child("monitor", SLEEP, critical=False)]
        task = asyncio.ensure_future(
            supervise(family, shutdown, LOG, on_ready=starts, policy=QUICK, output=output.append)
        )
        await starts.until(3)
        assert all(os.getsid(pid) == pid for _, pid in starts.seen)  # a terminal's Ctrl-C does not reach them
        for count, name in enumerate(("monitor", "relay-1", "monitor"), start=4):
            os.kill(starts.pids(name)[-1], signal.SIGKILL)
            await starts.until(count)
            assert starts.seen[-1][0] == name
        assert len(starts.pids("relay-0")) == 1
        shutdown.set()
        assert await task == 0
        assert not any(alive(pid) for _, pid in starts.seen)

    run(main())


def test_a_monitor_that_never_stays_up_is_started_again_for_ever_while_the_relay_serves(run: Run) -> None:
    async def main() -> None:
        starts, shutdown = Starts(), asyncio.Event()
        family = [child("relay-0", SLEEP), child("monitor", "sys.exit('no ledger')", critical=False)]
        output: list[str] = []
        task = asyncio.ensure_future(
            supervise(family, shutdown, LOG, on_ready=starts, policy=QUICK, output=output.append)
        )
        await starts.until(1 + 4 * QUICK.give_up_after)
        assert not task.done()
        assert len(starts.pids("relay-0")) == 1
        shutdown.set()
        assert await task == 0
        assert "[monitor] no ledger\n" in output

    run(main())


def test_relays_that_all_fail_at_once_are_given_up_with_their_own_words(run: Run) -> None:
    async def main() -> None:
        starts, output = Starts(), list[str]()
        family = [
            child("relay-0", "sys.exit('cannot bind port 1')"),
            child("relay-1", "sys.exit('cannot bind port 1')"),
            child("monitor", SLEEP, critical=False),
        ]
        with pytest.raises(SupervisorError, match=r"(?s)relay-0 does not stay up: exit code 1.*cannot bind port 1"):
            await supervise(family, asyncio.Event(), LOG, on_ready=starts, policy=QUICK, output=output.append)
        assert len(starts.pids("relay-0")) >= QUICK.give_up_after
        assert not alive(starts.pids("monitor")[-1])

    run(main())


def test_one_failing_relay_of_two_is_not_given_up(run: Run) -> None:
    async def main() -> None:
        starts, shutdown, output = Starts(), asyncio.Event(), list[str]()
        family = [child("relay-0", SLEEP), child("relay-1", "sys.exit(1)")]
        task = asyncio.ensure_future(
            supervise(family, shutdown, LOG, on_ready=starts, policy=QUICK, output=output.append)
        )
        await starts.until(1 + 3 * QUICK.give_up_after)
        assert not task.done()
        shutdown.set()
        assert await task == 0

    run(main())


def test_a_program_that_is_not_there_is_named(run: Run) -> None:
    async def main() -> None:
        family = [Child("relay-0", ["/nowhere/parity"], critical=True)]
        with pytest.raises(SupervisorError, match="/nowhere/parity: No such file"):
            await supervise(family, asyncio.Event(), LOG, policy=QUICK, output=lambda line: None)

    run(main())


def test_shutdown_drains_the_relays_before_the_monitor_is_told(run: Run) -> None:
    async def main() -> None:
        starts, shutdown, output = Starts(), asyncio.Event(), list[str]()
        drains = """
            def stop(*_):
                print("told", flush=True)
                time.sleep(0.3)
                print("drained", flush=True)
                sys.exit(0)
            signal.signal(signal.SIGTERM, stop)
            print("armed", flush=True)
            time.sleep(60)
        """
        family = [child("monitor", drains, critical=False), child("relay-0", drains), child("relay-1", drains)]
        task = asyncio.ensure_future(
            supervise(family, shutdown, LOG, on_ready=starts, policy=QUICK, output=output.append)
        )
        async with asyncio.timeout(20):
            while len(output) < 3:  # noqa: ASYNC110 - the output comes from another thread
                await asyncio.sleep(0.005)
        shutdown.set()
        assert await task == 0
        words = [line for line in output if "armed" not in line]
        assert {line.partition("]")[0] for line in words[:4]} == {"[relay-0", "[relay-1"}
        assert words[4:] == ["[monitor] told\n", "[monitor] drained\n"]

    run(main())


def test_a_relay_that_does_not_drain_in_time_is_killed_and_the_exit_code_says_so(run: Run) -> None:
    async def main() -> None:
        starts, shutdown, output = Starts(), asyncio.Event(), list[str]()
        deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('armed', flush=True); time.sleep(60)"
        task = asyncio.ensure_future(
            supervise(
                [child("relay-0", deaf)],
                shutdown,
                LOG,
                on_ready=starts,
                policy=Policy(drain_timeout_s=0.2),
                output=output.append,
            )
        )
        async with asyncio.timeout(20):
            while not output:  # noqa: ASYNC110 - the output comes from another thread
                await asyncio.sleep(0.005)
        shutdown.set()
        assert await task == 1
        assert not alive(starts.seen[0][1])

    run(main())


def test_output_in_floods_and_without_line_ends_never_holds_a_child_up(run: Run) -> None:
    async def main() -> None:
        starts, shutdown, output = Starts(), asyncio.Event(), list[str]()
        chatter = """
            sys.stdout.write("x" * 1_000_000 + "\\n")
            sys.stderr.write("{" * 1_000_000)
            sys.stdout.write('{"event": "listening", broken\\n[1]\\n{"event": "other"}\\n\\xff\\n')
            sys.stdout.flush()
            print(json.dumps({"event": "listening", "pid": 2}), flush=True)
            time.sleep(60)
        """
        task = asyncio.ensure_future(
            supervise([child("relay-0", chatter)], shutdown, LOG, on_ready=starts, policy=QUICK, output=output.append)
        )
        await starts.until(2)
        shutdown.set()
        assert await task == 0
        text = "".join(output)
        assert max(map(len, output)) <= 3 * 64 * 1024  # held and passed on in pieces
        assert text.count("x") >= 1_000_000
        assert text.count("{") >= 1_000_000
        assert '[relay-0] {"event": "other"}\n' in output

    run(main())


def test_a_listener_that_fails_does_not_stop_the_supervision(run: Run) -> None:
    async def main() -> None:
        shutdown = asyncio.Event()

        def fail(name: str, info: dict[str, Any]) -> None:
            shutdown.set()
            raise ValueError("planted")

        family = [child("relay-0", SLEEP)]
        assert await supervise(family, shutdown, LOG, on_ready=fail, policy=QUICK, output=lambda line: None) == 0

    run(main())


SUPERVISOR = """
import asyncio, logging, sys
from proxy.supervisor import Child, supervise

TIED = (
    "import json, os, time; from proxy.supervisor import die_with_parent; tied = die_with_parent();"
    "print(json.dumps({'event': 'listening', 'pid': os.getpid(), 'tied': tied}), flush=True); time.sleep(60)"
)
family = [Child(name, [sys.executable, "-c", TIED], name != "monitor") for name in ("relay-0", "relay-1", "monitor")]
ready = lambda name, info: print(info["pid"], info["tied"], flush=True)
LOOP
"""


@pytest.mark.parametrize("start", ["asyncio.run", "__import__('uvloop').run"], ids=["asyncio", "uvloop"])
def test_children_die_with_a_supervisor_that_is_killed(start: str) -> None:
    code = SUPERVISOR.replace(
        "LOOP", f"{start}(supervise(family, asyncio.Event(), logging.getLogger(), on_ready=ready))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        lines = [supervisor.stdout.readline().split() for _ in range(3)]
        assert [tied for _, tied in lines] == ["True"] * 3
        pids = [int(pid) for pid, _ in lines]
        assert all(map(alive, pids))
        supervisor.kill()
    deadline = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, pids))


def test_a_child_whose_supervisor_died_before_it_could_ask_ends_at_once() -> None:
    code = "from proxy.supervisor import die_with_parent; die_with_parent(); print('lived on')"
    environment = {**os.environ, "PARITY_SUPERVISED": str(2**22 - 1)}  # nobody's parent
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")
