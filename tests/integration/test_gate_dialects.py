"""Argo and Flagger at the real control port, with the examples' own settings: what each state makes them do."""

from __future__ import annotations

import asyncio
import base64
import math
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.monitor.gate import FLAGGER_HOOKS, MAX_LINE_CHARS
from proxy.monitor.gate_routes import MAX_HOOK_BYTES
from tests.integration.control_rig import GATE_TOKEN, TOKEN, Rig, control_port
from tests.integration.rollout_controllers import (
    Measurement,
    Phase,
    assess,
    call_webhook,
    exchange,
    flagger_body,
    go_request,
    measure,
)
from tests.unit.monitor_samples import FixedView, lane, verdict
from tests.unit.test_deploy_rollouts import the

RECIPE = "awq-int4-g128"
METRIC: dict[str, Any] = the("AnalysisTemplate", "argo")["spec"]["metrics"][0]
ARGS = {"monitor": "http://llm-canary.llm.svc:9090", "recipe": RECIPE, "gate-token": GATE_TOKEN}
CONFIRMS = ("confirm-rollout", "confirm-traffic-increase", "confirm-promotion")
CHECKS = ("pre-rollout", "rollout")
NOTICES = ("post-rollout", "event")
PHASES: dict[str, Phase] = {"pass": "Successful", "fail": "Failed", "inconclusive": "Inconclusive"}
STATES = tuple(PHASES)
REASON = "tool_call_mismatch: 412 pairs, not decided yet"


def guarded(directory: Path, view: FixedView | None = None) -> Any:
    """The port as it is in a cluster: beyond loopback it has both tokens."""
    return control_port(directory, token=TOKEN, gate_token=GATE_TOKEN, view=view)


def hook(type: str, **metadata: str) -> dict[str, Any]:
    """A webhook of a Canary, its token where the example has it."""
    url = f"http://gate:{GATE_TOKEN}@llm-canary.llm:9090/gate/v1/flagger/{type}"
    return {"type": type, "url": url, "retries": 2, "metadata": {"recipe": RECIPE, **metadata}}


def example_hooks() -> list[dict[str, Any]]:
    hooks = the("Canary", "flagger")["spec"]["analysis"]["webhooks"]
    return [{**each, "url": each["url"].replace("GATE_TOKEN", GATE_TOKEN)} for each in hooks]


# ---- Argo Rollouts


def test_argo_writes_these_bytes() -> None:
    """Held to the letter, so that the replay cannot drift from what it was read from."""
    assert go_request("GET", f"{ARGS['monitor']}/gate/v1/argo?recipe={RECIPE}", {"Authorization": "Bearer t"}) == (
        b"GET /gate/v1/argo?recipe=awq-int4-g128 HTTP/1.1\r\n"
        b"Host: llm-canary.llm.svc:9090\r\n"
        b"User-Agent: Go-http-client/1.1\r\n"
        b"Authorization: Bearer t\r\n"
        b"Accept-Encoding: gzip\r\n\r\n"
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("state", STATES)
async def test_argo_measures_the_verdict_and_keeps_the_reason(tmp_path: Path, state: Any) -> None:
    async with guarded(tmp_path, FixedView(verdict(state))) as rig:
        measured = await measure(rig.port, METRIC, ARGS)
        assert measured.phase == PHASES[state]
        assert (measured.value["reason"], measured.value["samples"]) == (REASON, 412)
        assert (measured.value["passed"], measured.value["failed"]) == (state == "pass", state == "fail")


@pytest.mark.asyncio
async def test_argo_waits_while_the_monitor_starts_is_broken_or_judges_another_recipe(tmp_path: Path) -> None:
    async with guarded(tmp_path, FixedView(verdict("pass"))) as rig:
        other = await measure(rig.port, METRIC, {**ARGS, "recipe": "fp8"})
        assert (other.phase, RECIPE in other.value["reason"]) == ("Inconclusive", True)
        rig.view.ready["reference"] = False  # starting: the verdict holds, and so does the answer
        rig.view.judged = verdict(reasons=("the reference has not been observed since the start",), budgets={})
        starting = await measure(rig.port, METRIC, ARGS)
        assert (starting.phase, starting.value["budgets"]) == ("Inconclusive", {})
        rig.view.broken = ZeroDivisionError("inside")
        broken = await measure(rig.port, METRIC, ARGS)
        assert (broken.phase, "log" in broken.value["reason"]) == ("Inconclusive", True)


@pytest.mark.asyncio
async def test_a_wrong_token_or_no_monitor_is_an_error_and_never_a_pass(tmp_path: Path) -> None:
    async with guarded(tmp_path, FixedView(verdict("pass"))) as rig:
        wrong = await measure(rig.port, METRIC, {**ARGS, "gate-token": "wrong"})
        assert wrong == Measurement("Error", message="received non 2xx response code: 401")
        port = rig.port
    gone = await measure(port, METRIC, ARGS)
    assert (gone.phase, "refused" in gone.message.lower() or "connect" in gone.message.lower()) == ("Error", True)


@pytest.mark.asyncio
async def test_a_figure_that_is_no_number_is_null(tmp_path: Path) -> None:
    """Go's JSON would refuse the whole answer, and a condition on it would abort."""
    odd = verdict()
    budget = odd.budgets["tool_call_mismatch"]
    odd = replace(odd, budgets={"b": replace(budget, lane=lane(value=math.nan, noise=math.inf, bound=-math.inf))})
    async with guarded(tmp_path, FixedView(odd)) as rig:
        measured = await measure(rig.port, METRIC, ARGS)
        assert [measured.value["budgets"]["b"][key] for key in ("value", "noise", "bound", "limit")] == [
            *(None, None, None),
            0.03,
        ]
        assert measured.value["coverage"] is None


@pytest.mark.asyncio
async def test_a_long_reason_does_not_fill_argos_record(tmp_path: Path) -> None:
    many = {f"budget_{n}": verdict().budgets["tool_call_mismatch"] for n in range(12)}
    async with guarded(tmp_path, FixedView(verdict(budgets=many, reasons=("why\n" * 9000,)))) as rig:
        measured = await measure(rig.port, METRIC, ARGS)
        assert len(measured.value["reason"]) <= MAX_LINE_CHARS
        assert len(orjson.dumps(measured.value)) < 4096


@pytest.mark.asyncio
async def test_a_run_goes_on_over_a_monitor_that_is_rescheduled(tmp_path: Path) -> None:
    """Errors come every 10 s, so that the template's limit is five minutes of them."""
    view = FixedView(verdict())
    phases: list[Phase] = []
    async with guarded(tmp_path, view) as rig:
        port = rig.port
        phases.append((await measure(port, METRIC, ARGS)).phase)
    phases += [(await measure(port, METRIC, ARGS)).phase for _ in range(METRIC["consecutiveErrorLimit"])]
    view.judged = verdict("pass")
    async with guarded(tmp_path, view) as rig:
        phases += [(await measure(rig.port, METRIC, ARGS)).phase for _ in range(3)]
    assert assess(METRIC, phases[:-2]) == ("Running", len(phases) - 2)
    assert assess(METRIC, phases) == ("Successful", len(phases) - 1)
    assert METRIC["consecutiveErrorLimit"] * 10 >= 300


measured_phases = st.lists(
    st.sampled_from(["Successful", "Inconclusive", "Inconclusive", "Error", "Failed"]), max_size=60
)


@given(measured_phases, st.integers(2, 20))
def test_no_run_succeeds_but_on_passes_at_its_end(phases: list[Phase], count: int) -> None:
    """The example's limits, in a shorter run: whatever came before, what it ends on is a pass, twice, and no fail."""
    enough = METRIC["consecutiveSuccessLimit"]
    assert METRIC["inconclusiveLimit"] == METRIC["count"] - enough
    metric = {**METRIC, "count": count, "inconclusiveLimit": count - enough}
    outcome, taken = assess(metric, phases)
    if outcome == "Successful":
        assert phases[taken - enough : taken] == ["Successful"] * enough
        assert "Failed" not in phases[:taken]
    if "Failed" in phases[:taken]:
        assert outcome == "Failed"


def test_no_data_pauses_the_rollout_also_where_an_old_argo_dropped_the_limit() -> None:
    old = {key: value for key, value in METRIC.items() if key != "consecutiveSuccessLimit"}
    nothing: list[Phase] = ["Inconclusive"] * METRIC["count"]
    assert assess(METRIC, nothing)[0] == "Inconclusive"
    assert assess(old, nothing)[0] == "Inconclusive"


# ---- Flagger


def test_flagger_writes_these_bytes() -> None:
    asked = {"url": "http://gate:t%2F1@h:9090/x", "metadata": {"b": "<&>", "a": "é"}}
    body = flagger_body(asked, "llm", "prod", "Progressing", "85d557f47b")
    assert (
        body
        == (
            '{"name":"llm","namespace":"prod","phase":"Progressing","checksum":"85d557f47b",'
            '"metadata":{"a":"é","b":"\\u003c\\u0026\\u003e"}}'
        ).encode()
    )
    assert go_request("POST", asked["url"], {"Content-Type": "application/json"}, body) == (
        b"POST /x HTTP/1.1\r\nHost: h:9090\r\nUser-Agent: Go-http-client/1.1\r\n"
        b"Content-Length: %d\r\nAuthorization: Basic %s\r\nContent-Type: application/json\r\n"
        b"Accept-Encoding: gzip\r\n\r\n%s" % (len(body), base64.b64encode(b"gate:t/1"), body)
    )


ANSWERS = {
    **dict.fromkeys(CONFIRMS, (200, 409, 409)),
    **dict.fromkeys(CHECKS, (200, 409, 200)),
    "rollback": (409, 200, 409),
    **dict.fromkeys(NOTICES, (200, 200, 200)),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("type", FLAGGER_HOOKS)
async def test_each_hook_answers_each_state(tmp_path: Path, type: str) -> None:
    async with guarded(tmp_path) as rig:
        for state, status in zip(STATES, ANSWERS[type], strict=True):
            rig.view.judged = verdict(state)  # type: ignore[arg-type]
            called = await call_webhook(rig.port, hook(type))
            assert (called.status, called.attempts) == (status, 1), state  # a refusal is never retried
            assert called.error == (None if status == 200 else f"{state}: {REASON}")


@pytest.mark.asyncio
@pytest.mark.parametrize("type", FLAGGER_HOOKS)
async def test_what_is_broken_or_another_recipe_neither_promotes_nor_rolls_back(tmp_path: Path, type: str) -> None:
    undecided = ANSWERS[type][STATES.index("inconclusive")]
    async with guarded(tmp_path) as rig:
        for state in ("pass", "fail"):
            rig.view.judged = verdict(state)  # type: ignore[arg-type]
            assert (await call_webhook(rig.port, hook(type, recipe="fp8"))).status == undecided
        rig.view.broken = RuntimeError("inside")
        assert (await call_webhook(rig.port, hook(type))).status == undecided


@pytest.mark.asyncio
async def test_a_canary_may_be_told_to_refuse_what_is_undecided(tmp_path: Path) -> None:
    async with guarded(tmp_path) as rig:
        for type in CHECKS:
            assert (await call_webhook(rig.port, hook(type, onInconclusive="fail"))).error == f"inconclusive: {REASON}"
            assert (await call_webhook(rig.port, hook(type, onInconclusive="pass"))).error is None
        rig.view.judged = verdict("pass")
        assert (await call_webhook(rig.port, hook("rollout", onInconclusive="fail"))).error is None
        mistyped = await call_webhook(rig.port, hook("rollout", onInconclusive="failed"))
        assert (mistyped.status, "onInconclusive" in str(mistyped.error)) == (400, True)
        assert (await call_webhook(rig.port, hook("event", onInconclusive="failed"))).error is None


@pytest.mark.asyncio
async def test_the_example_canary_goes_through_its_states(tmp_path: Path) -> None:
    """Undecided: the checks go on and nothing is promoted. Fail: it rolls back. Pass: it promotes."""

    async def agreed(rig: Rig) -> set[str]:
        return {each["type"] for each in example_hooks() if (await call_webhook(rig.port, each)).error is None}

    async with guarded(tmp_path) as rig:
        assert await agreed(rig) == {"rollout"}
        rig.view.judged = verdict("fail")
        assert await agreed(rig) == {"rollback"}
        rig.view.judged = verdict("pass")
        assert await agreed(rig) == {"rollout", "confirm-promotion"}
        port = rig.port
    dead = [await call_webhook(port, each) for each in example_hooks()]
    assert all(called.error is not None for called in dead)  # failed checks; no promotion; no rollback by the hook


@pytest.mark.asyncio
async def test_flagger_retries_a_monitor_that_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    async with AsyncExitStack() as stack:
        tries: list[None] = []

        async def starts_at_the_second() -> None:
            tries.append(None)
            if len(tries) == 2:
                view = FixedView(verdict("fail"))
                await stack.enter_async_context(control_port(tmp_path, TOKEN, view, GATE_TOKEN, port))

        called = await call_webhook(port, hook("rollout"), before_retry=starts_at_the_second)
        assert (called.attempts, called.error) == (3, f"fail: {REASON}")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"{}",
        b'{"metadata":null}',
        b'{"metadata":{}}',
        b'{"name":1,"phase":[],"more":{"a":1},"metadata":{"x":2}}',
    ],
)
async def test_what_flagger_may_leave_out_may_be_left_out(tmp_path: Path, body: bytes) -> None:
    async with control_port(tmp_path, view=FixedView(verdict("fail"))) as rig:
        answer = await rig.client.post("/gate/v1/flagger/rollout", content=body, headers={"content-type": "text/plain"})
        assert (answer.status_code, answer.text) == (409, f"fail: {REASON}")
        assert answer.headers["connection"] == "close"
        assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [b"no json", b"[]", b'"metadata"', b'{"metadata":[1]}', b'{"metadata":"x"}', b"\xff"])
async def test_a_body_of_another_kind_is_refused_and_rolls_nothing_back(tmp_path: Path, body: bytes) -> None:
    async with control_port(tmp_path, view=FixedView(verdict("fail"))) as rig:
        answer = await rig.client.post("/gate/v1/flagger/rollback", content=body)
        assert (answer.status_code, "metadata" in answer.text, "\n" in answer.text) == (400, True, False)
        assert (await rig.client.post("/gate/v1/flagger/event", content=body)).status_code == 200


@pytest.mark.asyncio
async def test_the_body_has_a_bound(tmp_path: Path) -> None:
    async with control_port(tmp_path, view=FixedView(verdict("pass"))) as rig:
        full = b" " * MAX_HOOK_BYTES
        assert (await rig.client.post("/gate/v1/flagger/rollout", content=full)).status_code == 200
        answer = await rig.client.post("/gate/v1/flagger/rollout", content=full + b" ")
        assert (answer.status_code, str(MAX_HOOK_BYTES) in answer.text) == (413, True)


@pytest.mark.asyncio
@pytest.mark.parametrize("type", ["rollouts", "Rollback", "confirm-rollback", "x" * 5000])
async def test_an_unknown_hook_names_those_that_there_are(tmp_path: Path, type: str) -> None:
    async with guarded(tmp_path, FixedView(verdict("fail"))) as rig:
        called = await call_webhook(rig.port, hook(type))
        assert called.status == 404
        assert all(name in str(called.error) for name in FLAGGER_HOOKS)


@pytest.mark.asyncio
async def test_a_hook_is_posted(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        answer = await rig.client.get("/gate/v1/flagger/rollout")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


# ---- the gate's own token


Sent = Literal["bearer", "basic"]


def credentials(token: str, sent: Sent) -> dict[str, str]:
    if sent == "bearer":
        return {"Authorization": f"Bearer {token}"}
    return {"Authorization": "Basic " + base64.b64encode(f"gate:{token}".encode()).decode()}


@pytest.mark.asyncio
@pytest.mark.parametrize("sent", ["bearer", "basic"])
async def test_the_gates_token_asks_the_gate_and_opens_nothing_else(tmp_path: Path, sent: Sent) -> None:
    headers = credentials(GATE_TOKEN, sent)
    async with guarded(tmp_path) as rig:
        for path in ("/gate", "/gate?recipe=x", "/gate/v1/argo"):
            assert (await exchange(rig.port, go_request("GET", f"http://h{path}", headers))).status == 200, path
        for path in ("/", "/metrics", "/readyz", "/state", "/pairs", "/pairs/id-1", "/gatex", "/gate/v1", "/gate/"):
            assert (await exchange(rig.port, go_request("GET", f"http://h{path}", headers))).status == 401, path
        for path in ("/gate/v1/../../pairs", "/gate/v1/..%2f..%2fpairs", "/gate/v1/%2e%2e/%2e%2e/pairs"):
            assert (await exchange(rig.port, go_request("GET", f"http://h{path}", headers))).status == 404, path
        for path in ("/gate/reset", "/mirror/pause", "/mirror/resume"):
            assert (await exchange(rig.port, go_request("POST", f"http://h{path}", headers, b""))).status == 401, path
        assert (rig.view.resets, rig.view.paused) == ([], False)
        both = credentials(TOKEN, sent)
        for path in ("/gate", "/pairs", "/state"):
            assert (await exchange(rig.port, go_request("GET", f"http://h{path}", both))).status == 200, path


@pytest.mark.asyncio
async def test_without_any_token_a_port_beyond_loopback_names_is_not_answered(tmp_path: Path) -> None:
    async with guarded(tmp_path, FixedView(verdict("pass"))) as rig:
        for url in (f"{ARGS['monitor']}/gate/v1/argo", f"{ARGS['monitor']}/gate"):
            assert (await exchange(rig.port, go_request("GET", url, {}))).status == 401
        bare = {**hook("confirm-promotion"), "url": "http://llm-canary.llm:9090/gate/v1/flagger/confirm-promotion"}
        called = await call_webhook(rig.port, bare)
        assert (called.status, called.error) == (401, "the control port needs its token\n")


@pytest.mark.asyncio
async def test_many_hooks_at_once_are_all_answered(tmp_path: Path) -> None:
    async with guarded(tmp_path, FixedView(verdict("pass"))) as rig:
        called = await asyncio.gather(*(call_webhook(rig.port, hook("confirm-promotion")) for _ in range(64)))
        assert {each.error for each in called} == {None}
