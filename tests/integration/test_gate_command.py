"""`parity gate` as a CI job runs it, at a real control port: exit codes, what it prints, and how it waits."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from proxy.gate_client.ask import MAX_ANSWER_BYTES, Answer, Gate, NoAnswer, ask
from proxy.gate_client.wait import wait
from scorers.judge import Verdict
from tests.integration.control_rig import GATE_TOKEN, TOKEN, control_port
from tests.unit.monitor_samples import FixedView, verdict

pytestmark = [pytest.mark.asyncio, pytest.mark.together]

REASON = verdict().reasons[0]
CODES = {"pass": 0, "fail": 1, "inconclusive": 2}


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str


def started(*words: str, **environment: str) -> Any:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PARITY_")}
    env |= {"NO_COLOR": "1", "COLUMNS": "200", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    words = (sys.executable, "-m", "proxy.cli", *words)
    pipe = asyncio.subprocess.PIPE
    return asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe, env=env)


async def parity_gate(*words: str, **environment: str) -> Done:
    process = await started("gate", *words, **environment)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return Done(process.returncode, out.decode(), err.decode())


def at(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("state", list(CODES))
async def test_it_exits_with_the_verdict(tmp_path: Path, state: Any) -> None:
    async with control_port(tmp_path, view=FixedView(verdict(state))) as rig:
        done = await parity_gate(at(rig.port))
        assert (done.code, done.err) == (CODES[state], "")
        assert f"verdict: {state}" in done.out
        assert "tool_call_mismatch" in done.out


async def test_json_is_what_the_gate_answers(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        done = await parity_gate(at(rig.port), "--json", "--wait", "--timeout", "0")
        assert (done.code, orjson.loads(done.out)) == (2, verdict().as_dict())


async def test_another_recipe_or_a_broken_monitor_is_inconclusive(tmp_path: Path) -> None:
    async with control_port(tmp_path, view=FixedView(verdict("pass"))) as rig:
        assert (await parity_gate(at(rig.port), "--recipe", "awq-int4-g128")).code == 0
        done = await parity_gate(at(rig.port), "--recipe", "fp8")
        assert (done.code, "awq-int4-g128" in done.out) == (2, True)
        rig.view.broken = RuntimeError("inside")
        assert (await parity_gate(at(rig.port))).code == 2


async def test_the_token_comes_from_the_environment(tmp_path: Path) -> None:
    async with control_port(tmp_path, token=TOKEN, gate_token=GATE_TOKEN, view=FixedView(verdict("pass"))) as rig:
        assert (await parity_gate(at(rig.port), PARITY_GATE_TOKEN=GATE_TOKEN)).code == 0
        assert (await parity_gate(at(rig.port), "--token-env", "MINE", MINE=TOKEN)).code == 0
        without = await parity_gate(at(rig.port))
        assert (without.code, without.out, "--token-env" in without.err) == (3, "", True)
        wrong = await parity_gate(at(rig.port), "--wait", "--json", PARITY_GATE_TOKEN="wr0ng")
        assert (wrong.code, orjson.loads(wrong.out)["verdict"]) == (3, None)  # and does not wait for it to be right
        assert "does not know this one" in orjson.loads(wrong.out)["error"]
        assert "wr0ng" not in wrong.out + wrong.err


async def test_what_cannot_be_reached_or_is_no_gate_is_not_a_verdict(tmp_path: Path) -> None:
    done = await parity_gate(at(closed_port()))
    assert (done.code, done.out, "cannot be reached" in done.err) == (3, "", True)
    async with control_port(tmp_path) as rig:
        elsewhere = await parity_gate(at(rig.port) + "/pairs", "--wait")
        assert (elsewhere.code, "not a parity gate: it answers 404" in elsewhere.err) == (3, True)


async def test_an_interrupted_wait_is_no_verdict(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        process = await started("gate", at(rig.port), "--wait")
        assert REASON in (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, out, b"Traceback" in err) == (130, b"", False)


class Seen(FixedView):
    """A view that says when it was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = asyncio.Event()

    def verdict(self) -> Verdict:
        self.looked.set()
        return super().verdict()


async def test_waiting_says_each_change_once_and_ends_with_the_decision(tmp_path: Path) -> None:
    view = Seen()
    async with control_port(tmp_path, view=view) as rig:
        process = await started("gate", at(rig.port), "--wait", "--interval", "0.1")
        first = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
        view.judged = verdict(reasons=("tool_call_mismatch: 977 pairs, not decided yet",))  # counts on: no news
        view.looked.clear()
        await asyncio.wait_for(view.looked.wait(), 60)
        view.judged = verdict("pass", reasons=("every budget holds",))
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, first) == (0, f"inconclusive: {REASON}\n")
        assert err.decode() == "pass: every budget holds\n"
        assert "verdict: pass" in out.decode()


async def test_a_real_monitor_says_from_its_start_why_nothing_is_decided(tmp_path: Path) -> None:
    """`parity monitor` with no engine behind it and both tokens, asked as soon as it listens."""
    file = tmp_path / "parity.toml"
    file.write_text(
        f'[candidate]\nurl = "{at(closed_port())}"\n[reference]\nurl = "{at(closed_port())}"\n'
        f'[feed]\nsocket = "{tmp_path}/feed.sock"\n[ledger]\npath = "{tmp_path}/ledger.sqlite"\n'
        '[control]\nport = 0\ntoken_env = "C"\ngate_token_env = "G"\n'
        '[gate]\nrecipe = "fp8"\n[budgets.tool_call_mismatch]\nlimit = 0.03\ncritical = true\n'
    )
    process = await started("monitor", "--config", str(file), C=TOKEN, G=GATE_TOKEN)
    try:
        port = orjson.loads(await asyncio.wait_for(process.stdout.readline(), 60))["port"]
        with httpx.Client() as client:
            found = await asyncio.to_thread(ask, client, Gate(at(port) + "/gate", "fp8", GATE_TOKEN))
            assert isinstance(found, Answer), found
            assert (found.verdict, bool(found.reason)) == ("inconclusive", True)
            headers = {"authorization": f"Bearer {GATE_TOKEN}"}
            pairs = await asyncio.to_thread(client.get, f"{at(port)}/pairs", headers=headers)
            assert pairs.status_code == 401
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 60)


# ---- waiting, in a thread of this process, with a sleep that is the test's


def waited(port: int, sleep: Callable[[float], None], **more: Any) -> tuple[Answer | NoAnswer, list[str]]:
    looks: list[str] = []

    def look(found: Answer | NoAnswer) -> None:
        looks.append(found.verdict if isinstance(found, Answer) else "passing" if found.passing else "final")

    settings = {"timeout_s": 3600.0, "interval_s": 15.0, **more}
    with httpx.Client() as client:
        return wait(client, Gate(at(port) + "/gate"), on_look=look, sleep=sleep, **settings), looks


async def test_a_monitor_that_restarts_is_asked_again(tmp_path: Path) -> None:
    port = closed_port()
    loop = asyncio.get_running_loop()
    view = FixedView(verdict())
    async with AsyncExitStack() as world:

        async def start() -> None:
            await world.enter_async_context(control_port(tmp_path, view=view, port=port))

        acts: list[Callable[[], Any]] = [
            lambda: None,  # still away
            lambda: asyncio.run_coroutine_threadsafe(start(), loop).result(30),
            lambda: asyncio.run_coroutine_threadsafe(world.aclose(), loop).result(30),
            lambda: asyncio.run_coroutine_threadsafe(start(), loop).result(30),
            lambda: setattr(view, "judged", verdict("fail")),
        ]

        def sleep(seconds: float) -> None:
            assert seconds == 15.0
            acts.pop(0)()

        found, looks = await asyncio.to_thread(waited, port, sleep)
        assert looks == ["passing", "passing", "inconclusive", "passing", "inconclusive", "fail"]
        assert isinstance(found, Answer)


async def test_the_time_runs_out(tmp_path: Path) -> None:
    """With the latest verdict when there was one; else with why there was none. The last look comes at the end."""
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    def clock() -> float:
        return now[0]

    port = closed_port()
    found, looks = await asyncio.to_thread(waited, port, sleep, timeout_s=40.0, clock=clock)
    assert (looks, slept) == (["passing"] * 4, [15.0, 15.0, 10.0])
    assert isinstance(found, NoAnswer)
    slept.clear()
    async with control_port(tmp_path, port=port):
        found, looks = await asyncio.to_thread(waited, port, sleep, timeout_s=20.0, clock=clock)
    assert (looks, slept) == (["inconclusive"] * 3, [15.0, 5.0])
    assert isinstance(found, Answer)


async def answering(status: str, body: bytes = b"", more: str = "") -> Answer | NoAnswer:
    """What `ask` makes of one raw answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\n{more}connection: close\r\n\r\n".encode() + body)
        try:
            await writer.drain()
        except ConnectionError:
            pass  # the asker has seen enough
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        place = Gate(at(server.sockets[0].getsockname()[1]) + "/gate")
        with httpx.Client() as client:
            return await asyncio.to_thread(ask, client, place)


@pytest.mark.parametrize(
    ("status", "passing", "word"),
    [
        ("503 x", True, "503"),
        ("502 x", True, "502"),
        ("429 x", True, "429"),
        ("401 x", False, "--token-env"),
        ("403 x", False, "--token-env"),
        ("421 x", False, "loopback"),
        ("302 x", False, "not a parity gate"),
        ("204 x", False, "not a parity gate"),
        ("200 x", False, "not in JSON"),
        ("nonsense", True, "cannot be reached"),
    ],
)
async def test_what_asking_again_mends_and_what_it_does_not(status: str, passing: bool, word: str) -> None:
    found = await answering(status, more="location: http://127.0.0.1:1/login\r\n")
    assert isinstance(found, NoAnswer)
    assert (found.passing, word in found.why) == (passing, True), found.why


async def test_an_answer_without_end_is_cut() -> None:
    found = await answering("200 OK", b" " * (MAX_ANSWER_BYTES + 1))
    assert isinstance(found, NoAnswer)
    assert "larger than" in found.why


async def test_an_answer_that_drips_is_given_up() -> None:
    """Each byte comes before the read times out, so that only the whole's bound ends it."""
    cut = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            cut.set()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        place = Gate(at(server.sockets[0].getsockname()[1]) + "/gate")
        with httpx.Client() as client:
            found = await asyncio.wait_for(asyncio.to_thread(ask, client, place, 0.3), 30)
        await asyncio.wait_for(cut.wait(), 30)
    assert isinstance(found, NoAnswer)
    assert (found.passing, "longer than 0.3 s" in found.why) == (True, True)
