"""The settings file: what is accepted, and that each mistake is refused with its key and its fix."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from backends import shape
from proxy.errors import SettingsError
from proxy.settings import Settings
from proxy.settings_file import load_settings, parse_settings, read_secrets
from scorers.records import ScoreSpec

SCORES = {
    "tool_call_mismatch": ScoreSpec("tool_call_mismatch", "ratio", True, ""),
    "logprob_kl": ScoreSpec("logprob_kl", "nats per token", False, ""),
}

MINIMAL = """
[candidate]
url = "http://127.0.0.1:8001"
[reference]
url = "http://127.0.0.1:8002"
[budgets.tool_call_mismatch]
limit = 0.03
critical = true
"""


def parse(text: str) -> Settings:
    return parse_settings(tomllib.loads(text), SCORES)


def problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    return caught.value.problems


def test_the_smallest_file_is_enough() -> None:
    settings = parse(MINIMAL)
    assert settings.relay.max_body_bytes == 32 * 1024 * 1024
    assert settings.budgets["tool_call_mismatch"].critical
    assert settings.feed.socket == Path("parity-feed.sock")


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("[relay]\nprot = 1", 'relay.prot: unknown key (did you mean "port"?)'),
        ('[relay]\nport = "8080"', "relay.port"),
        ("[sampling]\nrate = 1.5", "sampling.rate"),
        ('[relay]\ntls_certificate = "a.pem"', "also set tls_key"),
        ("[control]\nport = 8080", "control.port: 8080 is relay.port too"),
        ('[ledger]\npath = "/no/such/folder/l.sqlite"', "ledger.path: there is no folder /no/such/folder"),
        ("[budgets.tool_call_mismach]\nlimit = 0.1", 'did you mean "tool_call_mismatch"?'),
        ("[budgets.logprob_kl]\nlimit = 0.1\nnoise_multiple = 4.0", "allow_noise_multiple_above_3"),
        ('[control]\nhost = "0.0.0.0"', "control.token_env"),
        ('[control]\ngate_token_env = "G"', "set control.token_env"),
        ("[mirror]\nteacher_forced_rate = 0.1", "reference.teacher_forcing = true"),
        ("[mirror]\ntimeout_s = 400.0", "mirror.late_after_s"),
        ('[mirror]\nforward_headers = ["Authorization"]', "credentials"),
        ('[mirror]\nforward_headers = ["X-Session-Token"]', "credentials"),
        ('[mirror]\nforward_headers = ["X-Request-Id"]', "never sent"),
        ('[relay]\nallow_paths = ["health"]', 'must start with "/"'),
        ('[relay]\nfailover = "other"', "relay.failover"),
        ("[rollout]\nstiky = []", 'rollout.stiky: unknown key (did you mean "sticky"?)'),
        ('[rollout]\nsticky = ["a b"]', "is no header's name"),
        ("[rollout]\nsteps = [{share = 1.0}]", "rollout.steps: it has 1 of them"),
        ("[rollout]\nsteps = [{share = 0.05}, {share = 0.25}]", "let them rise from step to step, up to 1.0"),
        ("[rollout]\nsteps = [{share = 0.25}, {share = 0.05}, {share = 1.0}]", "let them rise"),
        ("[rollout]\nsteps = [{share = 0.05, pair = 3}, {share = 1.0}]", "rollout.steps.0.pair: unknown key"),
    ],
)
def test_a_mistake_is_named_with_its_fix(addition: str, expected: str) -> None:
    found = problems(MINIMAL + addition)
    assert len(found) == 1, found
    assert expected in found[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MINIMAL.replace("critical = true", ""), "no critical budget"),
        (MINIMAL.replace("tool_call_mismatch", "logprob_kl"), "can roll back but not promote"),
        (MINIMAL.replace("8002", "8001"), "reference.url"),
        (MINIMAL.replace('8002"', '8002"\nmodel = "bf16"') + "[rollout]", "rollout: the reference then serves clients"),
        (
            MINIMAL.replace('8002"', '8002"\nmodel = "bf16"') + '[relay]\nfailover = "reference"',
            "relay.failover: the ref",
        ),
        (MINIMAL.replace("limit = 0.03", "limit = 1.0"), "budgets.tool_call_mismatch.limit"),
        (MINIMAL.replace("limit = 0.03", ""), "budgets.tool_call_mismatch.limit: missing"),
        (MINIMAL.replace("http://127.0.0.1:8001", "http://127.0.0.1:8001/v1"), "without /v1"),
        (MINIMAL.replace("http://127.0.0.1:8001", "127.0.0.1:8001"), "is no origin"),
        (MINIMAL.replace("http://127.0.0.1:8001", "http://u:p@127.0.0.1:8001"), "no credentials"),
        ("[candidate]\nurl = 'http://a:1'\n[reference]\nurl='http://b:1'", "budgets: missing"),
        (MINIMAL.split("[reference]")[0] + "[budgets.tool_call_mismatch]\nlimit=0.1\ncritical=true", "reference"),
    ],
)
def test_what_is_missing_or_contradictory_is_refused(text: str, expected: str) -> None:
    assert expected in "\n".join(problems(text))


def test_every_problem_is_reported_at_once() -> None:
    wrong = '[relay]\nprot = 1\nport = "x"\n[sampling]\nrate = 2\n[budgets.tool_cal_mismatch]\nlimit = 0.1'
    assert len(problems(MINIMAL + wrong)) == 4


def test_missing_certificates_are_named_one_by_one() -> None:
    found = problems(MINIMAL + '[relay]\ntls_certificate = "/no/cert.pem"\ntls_key = "/no/key.pem"')
    assert [problem.split(":")[0] for problem in found] == ["relay.tls_certificate", "relay.tls_key"]


def test_secrets_come_from_the_environment_and_a_missing_one_is_named() -> None:
    settings = parse(MINIMAL + '[control]\ntoken_env = "TOKEN"\n[sampling]\nsalt_env = "SALT"')
    assert read_secrets(settings, {"TOKEN": "t", "SALT": "s"}).control_token == "t"
    assert read_secrets(settings, {"TOKEN": "t", "SALT": "s"}).sampling_salt == b"s"
    with pytest.raises(SettingsError) as caught:
        read_secrets(settings, {"SALT": ""})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["control.token_env", "sampling.salt_env"]


def test_the_gates_token_is_another_one() -> None:
    settings = parse(MINIMAL + '[control]\ntoken_env = "TOKEN"\ngate_token_env = "GATE"')
    secrets = read_secrets(settings, {"TOKEN": "t", "GATE": "g"})
    assert (secrets.control_token, secrets.gate_token) == ("t", "g")
    with pytest.raises(SettingsError, match=r"control\.gate_token_env: the same token"):
        read_secrets(settings, {"TOKEN": "t", "GATE": "t"})


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "no such file"), (b"[relay", "not TOML"), (b"\xff\xfe", "cannot be read")],
)
def test_an_unreadable_file_is_one_clear_line(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "parity.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=expected):
        load_settings(path, {}, SCORES)


def test_a_dated_value_is_a_problem_not_a_crash() -> None:
    document: dict[str, Any] = tomllib.loads(MINIMAL + "[relay]\nhead_timeout_s = 2026-01-01")
    with pytest.raises(SettingsError, match=r"relay\.head_timeout_s"):
        parse_settings(document, SCORES)


def test_no_header_is_allowed_that_would_never_be_sent() -> None:
    for name in (*shape._REFUSED_HEADERS, *(f"x-{part}-y" for part in shape._REFUSED_IN_NAME)):
        assert problems(MINIMAL + f'[mirror]\nforward_headers = ["{name}"]'), name
    assert parse(MINIMAL + '[mirror]\nforward_headers = ["X-Tenant"]').mirror.forward_headers == ("x-tenant",)


def test_a_rollout_is_off_unless_its_table_is_there_and_has_steps_of_its_own() -> None:
    assert parse(MINIMAL).rollout is None
    rollout = parse(MINIMAL + "[rollout]").rollout
    assert rollout is not None
    assert [step.share for step in rollout.steps] == [0.05, 0.25, 1.0]
    given = parse(
        MINIMAL + '[rollout]\nsticky = ["X-Session"]\nsteps = [{share = 0.0, pairs = 3}, {share = 1.0}]'
    ).rollout
    assert given is not None
    assert (given.sticky, given.steps[0].share, given.steps[0].pairs) == (("x-session",), 0.0, 3)
