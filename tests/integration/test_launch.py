"""`parity launch` as a person runs it: ready, stopped, crashed before and after, killed, late; nothing is ever left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from proxy.launch_command.guard import in_session
from proxy.settings_file import load_settings
from scorers.catalogue import SPECS
from tests.integration.launch_rig import Place, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_both_arms_are_ready_told_and_ended_on_sigterm(place: Place) -> None:
    place.acts("candidate", child=True)
    config = place.at / "parity.toml"
    with place.launch("--config-out", str(config)) as running:
        urls = running.until_ready()
        assert set(urls) == {"candidate", "reference"}
        for url in urls.values():
            (card,) = httpx.get(f"{url}/v1/models").json()["data"]
            assert (card["id"], card["max_model_len"]) == ("w4a16", 2048)
        until(config.exists, "the settings file")
        assert len(running.left()) >= 5, "two guards, two engines, one grandchild"
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.told()
        assert running.left() == []
        assert load_settings(config, {}, SPECS).settings.candidate.url == urls["candidate"]
        assert "the module is run instead" in running.told()
        assert f"parity serve --config {config}" in running.told()


def test_ctrl_c_before_they_are_ready_ends_both(place: Place) -> None:
    place.acts("candidate", deaf=True)
    with place.launch() as running:
        until(lambda: len(running.sessions()) == 2 and "reference: ready" in running.told(), "one ready, one deaf")
        running.process.send_signal(signal.SIGINT)
        assert running.end() == 1
        assert "ended before every engine was ready" in running.told()
        assert running.left() == []


def test_a_crash_before_readiness_tells_the_cause_and_ends_the_other(place: Place) -> None:
    said = (
        "(EngineCore pid=7) ERROR 11-24 22:22:41 [core.py:9] ValueError: To serve at least one request with the "
        "model's max seq len (2048), (0.90 GiB KV cache is needed, which is larger than the available KV cache memory "
        "(0.50 GiB). Based on the available memory, the estimated maximum model length is 1024. Try increasing"
    )
    place.acts("candidate", prints=said, exits=3, child=True)
    with place.launch() as running:
        assert running.end() == 1
        told = running.told()
        assert "the candidate ended before it was ready, exit code 3: the cache is too small" in told
        assert "1,024 tokens would fit" in told
        assert "-> context_tokens = 1024 in the recipe" in told
        assert str(place.at / "logs" / "candidate.log") in told
        assert len(running.sessions()) == 2
        assert running.left() == []


def test_an_unknown_error_is_shown_as_it_is(place: Place) -> None:
    place.acts(
        "reference", prints="(APIServer pid=1) Traceback\n\x1b[31mValueError: the moon\x07 is full\x1b[0m", exits=1
    )
    with place.launch() as running:
        assert running.end() == 1
        assert "    ValueError: the moon is full\n" in running.told()
        assert "-> the cause is not a known one: see the log" in running.told()


def test_a_crash_after_readiness_ends_the_other_and_says_it(place: Place) -> None:
    place.acts("candidate", dies_at=str(place.at / "now"), child=True)
    with place.launch() as running:
        running.until_ready()
        (place.at / "now").touch()
        assert running.end() == 1
        assert "the candidate ended after it had been ready, exit code 5: the card's memory ran out" in running.told()
        assert running.left() == []


def test_an_engine_that_is_killed(place: Place) -> None:
    place.acts("reference", kills_itself=9)
    with place.launch() as running:
        assert running.end() == 1
        assert "killed by SIGKILL: it was killed (SIGKILL): by the kernel" in running.told()


def test_nothing_outlives_a_launch_that_is_killed(place: Place) -> None:
    """Also not what an engine left behind: the guard hears of it from the kernel."""
    place.acts("candidate", child=True)
    place.acts("reference", deaf=True, child=True)
    with place.launch() as running:
        until(lambda: len(running.left()) >= 6, "two guards, two engines, two grandchildren")
        running.process.kill()
        running.process.wait()
        until(lambda: running.left() == [], "everything gone")


def test_a_guard_that_is_killed_takes_its_engine_along(place: Place) -> None:
    place.acts("candidate", child=True)
    with place.launch() as running:
        running.until_ready()
        os.kill(running.sessions()[1], signal.SIGKILL)
        assert running.end() == 1
        assert "the candidate ended after it had been ready" in running.told()
        assert running.left() == []


def test_an_engine_that_hears_nothing_is_killed_after_the_grace() -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    guard = "import sys; from proxy.launch_command import guard; guard.GRACE_S = 1; sys.exit(guard.main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", guard, sys.executable, "-c", stubborn],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "deaf\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGKILL
    assert in_session(process.pid) == []


def test_one_that_is_not_ready_in_time(place: Place) -> None:
    place.acts("candidate", deaf=True)
    with place.launch("--ready-timeout", "1") as running:
        assert running.end() == 1
        assert "was not ready in 1 s" in running.told()
        assert running.left() == []


def test_a_port_in_use_is_seen_before_anything_starts(place: Place) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", place.ports[0]))
        other.listen()
        with place.launch() as running:
            assert running.end() == 1
            assert f"candidate.port: cannot use 127.0.0.1:{place.ports[0]}: Address already in use" in running.told()
            assert "--candidate-port" in running.told()
            assert running.sessions() == []
    assert not (place.at / "logs").exists()


def test_an_engine_that_serves_something_else_is_told(place: Place) -> None:
    place.acts("candidate", max_model_len=1024)
    with place.launch() as running:
        running.until_ready()
        assert "the candidate serves max_model_len 1024, and was asked for 2048" in running.told()
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0


def test_on_one_card_the_second_starts_once_the_first_is_ready(place: Place) -> None:
    with place.launch(recipe=place.write("h100")) as running:
        running.until_ready()
        told = running.told()
        order = [told.index(word) for word in ("reference: started", "reference: ready", "candidate: started")]
        assert order == sorted(order)
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0


def test_a_checkpoint_that_is_not_the_recipe_starts_nothing(place: Place) -> None:
    other = place.write("cpu", name="other")
    other.write_text(other.read_text().replace('format = "int4"', 'format = "int8"'))
    with place.launch(recipe=other) as running:
        assert running.end() == 1
        assert "the recipe says int8; the checkpoint has int4 per group of 128" in running.told()
        assert running.sessions() == []


def test_logs_that_cannot_be_written(place: Place) -> None:
    (place.at / "logs").write_text("a file")
    with place.launch() as running:
        assert running.end() == 2, "the words are wrong: --logs is a file"
        assert running.sessions() == []
