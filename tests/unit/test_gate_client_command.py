"""The words of `parity gate`: its help, and that a mistake in them is never taken for a verdict."""

from __future__ import annotations

import pytest
from click.testing import Result
from typer.testing import CliRunner

from proxy.cli import cli

NOWHERE = "http://127.0.0.1:1"


def gate(*words: str) -> Result:
    return CliRunner().invoke(cli, ["gate", *words], env={"NO_COLOR": "1", "COLUMNS": "200", "PARITY_GATE_TOKEN": ""})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "URL"),
        ((NOWHERE, "--wiat"), "--wait"),
        ((NOWHERE, "--timeout", "soon"), "--timeout"),
        ((NOWHERE, "--interval", "0"), "--interval"),
        ((NOWHERE, "more"), "more"),
        (("127.0.0.1:9090",), "http://"),
        (("http://gate:s3cret@127.0.0.1:1",), "--token-env"),
        ((NOWHERE, "--token-env", "NOT_THERE"), "NOT_THERE"),
        ((NOWHERE,), "cannot be reached"),
    ],
)
def test_a_mistake_is_not_a_verdict(words: tuple[str, ...], told: str) -> None:
    """2, which other commands end with, would say inconclusive; 1 would say that the recipe failed."""
    done = gate(*words)
    assert (done.exit_code, done.stdout) == (3, "")
    assert told in done.stderr
    assert "s3cret" not in done.stderr


def test_a_token_that_no_header_can_hold_is_refused() -> None:
    done = CliRunner().invoke(cli, ["gate", NOWHERE], env={"PARITY_GATE_TOKEN": "a\nb"})
    assert (done.exit_code, "PARITY_GATE_TOKEN" in done.stderr) == (3, True)


def test_it_teaches() -> None:
    done = gate("--help")
    assert done.exit_code == 0
    for line in (
        "0  pass",
        "1  fail",
        "2  inconclusive",
        "3  could not be asked",
        "--wait || code=$?",
        "export PARITY",
    ):
        assert line in done.stdout
