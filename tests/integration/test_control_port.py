"""The control port on a real socket: who may call it, what it answers, and that it stops."""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import re
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from proxy.errors import LedgerError, RolloutError, SettingsError
from proxy.monitor.control import create_control_app, serve_control
from proxy.monitor.exposition import ParityMetrics
from proxy.monitor.guard import OPEN_PATHS
from proxy.monitor.page.script import SCRIPT
from proxy.monitor.rows import LedgerRow, PairBodies, ScoreRow
from tests.integration.control_rig import TOKEN, Rig, control_port
from tests.unit.monitor_samples import SPECS, FixedView, bodies, reply, row, verdict

pytestmark = pytest.mark.asyncio

EVERY_GET = ("/", "/metrics", "/readyz", "/state", "/gate", "/gate/v1/argo", "/pairs", "/pairs/id-1")
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def hostile() -> LedgerRow:
    """A row in which everything that a client or a model can choose is markup."""
    arguments = orjson.dumps({MARKUP: [MARKUP]}).decode()
    said = reply(f"{MARKUP} \x00\x1b[31m \u202e", (MARKUP, arguments))
    asked = orjson.dumps({"model": MARKUP, "messages": [{"role": "user", "content": MARKUP}], "tools": []})
    why = {"rung": MARKUP, "diff": [{"left": MARKUP, "right": 10**40}]}
    score = ScoreRow("candidate", "tool_call_mismatch", 1.0, None, why)
    return row(
        1, path=f"/v1/{MARKUP}", scores=(score,), bodies=PairBodies(asked, said, MARKUP.encode() + b"\xff", said)
    )


async def test_alive_and_ready(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        assert (await rig.client.get("/healthz")).json() == {"alive": True}
        answer = await rig.client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
        rig.view.ready["reference"] = False
        answer = await rig.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "conditions": {"ledger": True, "reference": False}}


@pytest.mark.parametrize("state", ["pass", "fail", "inconclusive"])
async def test_the_gate_is_always_200(tmp_path: Path, state: Any) -> None:
    async with control_port(tmp_path, view=FixedView(verdict(state))) as rig:
        answer = await rig.client.get("/gate")
        assert (answer.status_code, answer.json()) == (200, verdict(state).as_dict())
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/json"
        data = (await rig.client.get("/gate/v1/argo?recipe=awq-int4-g128")).json()["data"]
        assert (data["verdict"], data["reason"], data["samples"]) == (state, verdict(state).reasons[0], 412)
        budget = data["budgets"]["tool_call_mismatch"]
        assert budget == {
            "verdict": state,
            "samples": 412,
            "value": 0.004,
            "bound": 0.021,
            "limit": 0.03,
            "noise": 0.003,
            "critical": True,
        }


async def test_the_gate_answers_while_the_monitor_is_broken_or_another_recipe_is_meant(tmp_path: Path) -> None:
    async with control_port(tmp_path, view=FixedView(verdict("pass"))) as rig:
        other = await rig.client.get("/gate/v1/argo?recipe=fp8")
        assert (other.status_code, other.json()["data"]["verdict"]) == (200, "inconclusive")
        rig.view.broken = RuntimeError("inside")
        assert (await rig.client.get("/gate")).json()["verdict"] == "inconclusive"
        assert (await rig.client.get("/gate/v1/argo")).json()["data"]["verdict"] == "inconclusive"
        assert (await rig.client.get("/", headers=BROWSER)).status_code == 200
        assert 'parity_verdict{state="inconclusive"} 1.0' in (await rig.client.get("/metrics")).text


async def test_pairs_are_listed_filtered_and_shown_side_by_side(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        rig.ledger.append([row(n, bodies=bodies("hello")) for n in range(1, 9)])
        listed = (await rig.client.get("/pairs?limit=3&mismatched=true&before=7")).json()
        assert [pair["position"] for pair in listed] == [5, 3, 1]
        assert "bodies" not in listed[0]
        assert (await rig.client.get("/pairs?score=nobody")).json() == []
        assert len((await rig.client.get("/pairs")).json()) == 8

        shown = (await rig.client.get("/pairs/id-3")).json()
        assert shown["candidate"]["choices"][0]["text"] == "hello"
        assert shown["candidate"]["choices"][0]["tool_calls"][0]["arguments"] == '{"city": "Turin"}'
        assert shown["reference"]["choices"][0]["tool_calls"][0]["name"] == "get_weather"
        assert shown["request"]["prompt"] == "Weather in <b>Turin</b>?"
        assert shown["request"]["tools"] == ["get_weather"]
        assert shown["candidate"]["raw"] == bodies("hello").candidate.decode()
        assert shown["scores"][0]["explanation"] == {"rung": "args"}
        assert shown["control"] is None


async def test_the_reader_leads_to_the_newer_and_to_the_older_pair(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        rig.ledger.append([row(n, bodies=bodies("hello")) for n in range(1, 9)])
        page = (await rig.client.get("/pairs/id-5?score=tool_call_mismatch", headers=BROWSER)).text
        leads = dict(re.findall(r'href="/pairs/(id-\d)[^"]*" rel="(\w+)"', page))
        assert leads == {"id-7": "prev", "id-3": "next"}  # even ones are within the limit
        assert "2 of the latest 4 failing pairs" in page


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/pairs/nobody", 404, "pruned"),
        ("/pairs?limit=0", 422, "limit"),
        ("/pairs?before=x", 422, "before"),
        (f"/pairs?before={2**63}", 422, "before"),
        (f"/?before={2**63}", 422, "before"),
        ("/pairs/x?kind=other", 422, "kind"),
        ("/nowhere", 404, "Not Found"),
        ("/docs", 404, ""),
        ("/openapi.json", 404, ""),
        ("/mirror/pause", 405, ""),
        ("/pairs/%ff%00%0a", 404, ""),
        ("/pairs/" + "x" * 129, 422, "id"),
    ],
)
async def test_what_is_not_there_says_so(tmp_path: Path, path: str, status: int, word: str) -> None:
    async with control_port(tmp_path) as rig:
        answer = await rig.client.get(path)
        assert answer.status_code == status
        assert word in answer.json()["error"]
        page = await rig.client.get(path, headers=BROWSER)
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")


async def test_the_mirror_is_paused_and_resumed(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        assert (await rig.client.post("/mirror/pause")).json() == {"paused": True}
        assert rig.view.paused
        answer = await rig.client.post("/mirror/resume", headers=BROWSER)
        assert (answer.status_code, answer.headers["location"], rig.view.paused) == (303, "/", False)
        assert (await rig.client.post("/mirror/stop")).status_code == 422


async def test_the_evidence_is_reset_with_or_without_a_reason(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        assert (await rig.client.post("/gate/reset")).json() == {"reset": True, "position": 41}
        assert (await rig.client.post("/gate/reset", json={"reason": "parser fixed"})).status_code == 200
        answer = await rig.client.post("/gate/reset", headers=BROWSER)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert rig.view.resets == ["", "parser fixed", ""]
        assert (await rig.client.get("/gate/reset")).status_code == 405


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"null", b'{"reason": 1}', b'{"reason": "' + b"x" * 501 + b'"}', b"\xff"]
)
async def test_a_reset_with_a_body_that_says_nothing_sensible_is_none(tmp_path: Path, body: bytes) -> None:
    async with control_port(tmp_path) as rig:
        answer = await rig.client.post("/gate/reset", content=body)
        assert (answer.status_code, "reason" in answer.json()["error"]) == (422, True)
        assert (await rig.client.post("/gate/reset", content=b" " * 5000)).status_code == 413
        assert rig.view.resets == []


async def test_a_reset_that_was_not_recorded_says_so(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        rig.view.broken = LedgerError("ledger x: the disk is full")
        answer = await rig.client.post("/gate/reset")
        assert (answer.status_code, answer.json()) == (503, {"error": "ledger x: the disk is full"})


async def test_with_a_token_everything_but_health_needs_it(tmp_path: Path) -> None:
    async with control_port(tmp_path, token=TOKEN) as rig:
        rig.ledger.append([row(1, bodies=bodies())])
        assert (await rig.client.get("/healthz")).status_code == 200
        basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
        wrong = base64.b64encode(b"me:no").decode()
        right = [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"]
        refused = [None, "", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, f"Basic {wrong}"]
        refused += ["Basic %%%", "Basic " + base64.b64encode(TOKEN.encode()).decode(), "Bearer t\xf6ken"]
        for path in EVERY_GET:
            for given in refused:
                headers = {} if given is None else {"authorization": given.encode("latin-1")}
                answer = await rig.client.get(path, headers=headers)  # type: ignore[arg-type]
                assert (answer.status_code, TOKEN in answer.text) == (401, False)
                # Chromium takes a header for one challenge, and none for Bearer: the page's would ask nobody.
                schemes = [told.partition(" ")[0] for told in answer.headers.get_list("www-authenticate")]
                assert schemes == ["Basic", "Bearer"]
            for given in right:
                assert (await rig.client.get(path, headers={"authorization": given})).status_code == 200
        assert (await rig.client.post("/mirror/pause")).status_code == 401
        assert (await rig.client.post("/gate/reset")).status_code == 401
        assert (await rig.client.post("/rollout/promote")).status_code == 401
        assert rig.view.acts == []
        assert not rig.view.paused
        assert rig.view.resets == []


async def test_two_authorization_headers_are_none(tmp_path: Path) -> None:
    async with control_port(tmp_path, token=TOKEN) as rig:
        both = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer no")]
        for headers in (both, both[::-1]):
            assert (await rig.client.get("/gate", headers=headers)).status_code == 401


async def test_without_a_token_only_loopback_names_are_answered(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        for host in ("127.0.0.1", f"localhost:{rig.port}", "[::1]:9090"):
            assert (await rig.client.get("/pairs", headers={"host": host})).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::1", ""):
            assert (await rig.client.get("/pairs", headers={"host": host})).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://[", "host": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:1"},
    ],
)
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_another_site_changes_nothing(tmp_path: Path, headers: dict[str, str], token: str | None) -> None:
    async with control_port(tmp_path, token=token) as rig:
        if token:
            rig.client.headers["authorization"] = f"Bearer {token}"
        for path in ("/mirror/pause", "/gate/reset", "/rollout/promote"):
            answer = await rig.client.post(path, headers=headers)
            assert answer.status_code == (421 if "host" in headers and not token else 403)
        assert not rig.view.paused
        assert rig.view.resets == []
        own = {"origin": f"http://127.0.0.1:{rig.port}", "sec-fetch-site": "same-origin"}
        assert (await rig.client.post("/mirror/pause", headers=own)).status_code == 200


async def test_markup_of_clients_stays_text(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        rig.ledger.append([hostile()])
        listed = (await rig.client.get("/pairs")).json()
        assert listed[0]["path"].startswith("/v1/<script>")  # JSON says what it was
        for path in ("/?every=true", "/pairs/id-1"):
            page = await rig.client.get(path, headers=BROWSER)
            assert page.status_code == 200
            assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
            assert page.text.count("<script") == 1  # ours, whose digest is in the policy
            assert f"<script>{SCRIPT}</script>" in page.text
            assert "<img" not in page.text
            assert re.search(r"[\x00-\x08\x0b-\x1f\u202e]", page.text) is None
        assert "&lt;script&gt;" in page.text
        assert (await rig.client.get("/pairs/id-1")).json()["scores"][0]["explanation"]["diff"][0]["right"] == 10**40


async def test_every_answer_is_guarded_by_headers(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        rig.ledger.append([row(1, bodies=bodies())])
        for path in (*EVERY_GET, "/nowhere", "/healthz"):
            headers = (await rig.client.get(path)).headers
            policy = headers["content-security-policy"]
            assert "unsafe" not in policy
            assert policy.startswith("default-src 'none'; style-src 'sha256-")
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["x-frame-options"] == "DENY"
            assert "server" not in headers


async def test_metrics_say_what_is_so(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        rig.ledger.append([row(1)])
        text = (await rig.client.get("/metrics")).text
        assert 'parity_verdict{state="inconclusive"} 1.0' in text
        assert "parity_ledger_rows 1.0" in text
        asked = {"accept": "application/openmetrics-text; version=1.0.0"}
        openmetrics = await rig.client.get("/metrics", headers=asked)
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        assert openmetrics.text.endswith("# EOF\n")


async def test_a_ledger_that_cannot_be_read_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        rig.ledger.close()
        rig.ledger.path.write_bytes(b"garbage" * 1000)
        answer = await rig.client.get("/pairs")
        assert (answer.status_code, "not a database" in answer.json()["error"]) == (503, True)
        page = await rig.client.get("/", headers=BROWSER)
        assert (page.status_code, "not a database" in page.text) == (200, True)
        assert "parity_ledger_rows" not in (await rig.client.get("/metrics")).text
        assert (await rig.client.get("/gate")).status_code == 200


async def test_no_prompt_reaches_a_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with control_port(tmp_path) as rig:
        rig.ledger.append([row(1, bodies=PairBodies(b"{PROMPT", b"data: {PROMPT", b'{"PROMPT": NaN}'))])
        for path in ("/pairs/id-1", "/pairs", "/", "/metrics"):
            for headers in ({}, BROWSER):
                assert (await rig.client.get(path, headers=headers)).status_code == 200
    assert "PROMPT" not in caplog.text


async def test_a_slow_ledger_read_holds_nobody_up(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        rig.ledger.append([row(1, bodies=bodies())])
        release = asyncio.Event()
        loop = asyncio.get_running_loop()
        real = rig.ledger.pair

        def slow(id: str, kind: Any = None) -> LedgerRow | None:
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)
            return real(id, kind)

        rig.ledger.pair = slow  # type: ignore[method-assign]
        waiting = asyncio.create_task(rig.client.get("/pairs/id-1"))
        answer = await asyncio.wait_for(rig.client.get("/gate"), 5)
        assert (answer.status_code, waiting.done()) == (200, False)
        release.set()
        assert (await waiting).status_code == 200


async def test_it_stops_when_told_although_a_scraper_keeps_its_connection(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        assert (await rig.client.get("/healthz")).status_code == 200
        started = time.monotonic()
        rig.shutdown.set()
        await asyncio.wait_for(rig.serving, 10)
        assert time.monotonic() - started < 5
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", rig.port)


def _app(directory: Path, token: str | None) -> Any:
    metrics = ParityMetrics(specs=SPECS, recipe="r", version="0")
    return create_control_app(FixedView(), _NoLedger(), metrics, token, "r")


class _NoLedger:
    def pairs(self, **_: Any) -> list[LedgerRow]:
        return []

    def pair(self, id: str, kind: Any = None) -> LedgerRow | None:
        return None

    def stats(self) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "parity.example", ""])
@pytest.mark.parametrize("token", [None, ""])
async def test_beyond_loopback_it_refuses_without_a_token(tmp_path: Path, host: str, token: str | None) -> None:
    app = _app(tmp_path, token)
    with pytest.raises(SettingsError, match=r"control\.token_env"):
        await serve_control(app, host, 0, asyncio.Event(), lambda *_: pytest.fail("it listened"))


async def test_beyond_loopback_it_serves_with_a_token(tmp_path: Path) -> None:
    shutdown = asyncio.Event()
    ports: list[int] = []

    def stop(host: str, port: int) -> None:
        ports.append(port)
        shutdown.set()

    await asyncio.wait_for(serve_control(_app(tmp_path, TOKEN), "0.0.0.0", 0, shutdown, stop), 10)
    assert ports
    assert ports[0] > 0


async def test_beyond_loopback_no_route_answers_without_the_token(tmp_path: Path) -> None:
    """Every route that the application has, by its own list: one that is added later is in here."""
    app, shutdown = _app(tmp_path, TOKEN), asyncio.Event()
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_control(app, "0.0.0.0", 0, shutdown, lambda _, port: listening.set_result(port))
    )
    port = await listening
    asked = {(method, re.sub(r"\{\w+\}", "pause", route.path)) for route in app.routes for method in route.methods}
    assert {("GET", "/"), ("GET", "/pairs/pause"), ("POST", "/mirror/pause"), ("GET", "/metrics")} <= asked
    assert len(asked) >= 13
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for method, path in sorted(asked):
            answer = await client.request(method, path, headers=BROWSER)
            assert answer.status_code == (200 if path in OPEN_PATHS else 401), (method, path)
            assert path in OPEN_PATHS or answer.content == b"the control port needs its token\n" or method == "HEAD"
        assert (await client.get("/nowhere")).status_code == 401
        assert (await client.get("/healthz")).json() == {"alive": True}  # all that it says to a stranger
    shutdown.set()
    await serving
    assert {"/healthz"} == OPEN_PATHS


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"control\.port: 127\.0\.0\.1:{port}"):
            await serve_control(_app(tmp_path, None), "127.0.0.1", port, asyncio.Event(), lambda *_: None)


async def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        score = ScoreRow("candidate", "tool_call_mismatch", 1.0, None, {"kl": math.nan})
        rig.ledger.append([replace(row(1), scores=(score,), bodies=bodies())])
        answer = await rig.client.get("/pairs/id-1")
        assert answer.json()["scores"][0]["explanation"] == {"kl": None}


async def test_many_readers_at_once(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        rig.ledger.append([row(n, bodies=bodies()) for n in range(1, 30)])

        async def read(rig: Rig) -> set[int]:
            return {(await rig.client.get(path)).status_code for path in EVERY_GET}

        assert set().union(*await asyncio.gather(*(read(rig) for _ in range(10)))) == {200}


async def test_the_rollout_is_acted_on_with_a_reason(tmp_path: Path) -> None:
    async with control_port(tmp_path) as rig:
        answer = await rig.client.post("/rollout/abort", json={"reason": "too hot"})
        assert (answer.status_code, answer.json()) == (200, {"phase": "paused"})
        assert (await rig.client.post("/rollout/promote")).status_code == 200
        assert (await rig.client.post("/rollout/resume", headers=BROWSER)).status_code == 303
        assert (await rig.client.post("/rollout/skip")).status_code == 422
        assert (await rig.client.post("/rollout/pause", content=b"{")).status_code == 422
        assert rig.view.acts == [("abort", "too hot"), ("promote", ""), ("resume", "")]
        rig.view.broken = RolloutError("the rollout is failed and does not take promote")
        answer = await rig.client.post("/rollout/promote")
        assert (answer.status_code, answer.json()) == (409, {"error": str(rig.view.broken)})
