"""The pod's probes against the real server, started on the ConfigMap's own settings with changed ports and paths.

Asked as the kubelet asks: a GET within timeoutSeconds that follows nothing and passes on 200 to 399, or a command
within timeoutSeconds that passes on exit code 0. (kubernetes.io/docs/concepts/workloads/pods/probes)
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.scripted import ScriptedServer
from tests.integration.system_rig import DEADLINE_S, program
from tests.unit.deploy_files import KUBERNETES, TOKENS, container, here, manifests

OPENSSL = shutil.which("openssl")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
AGENT = {"user-agent": "kube-probe/1.33", "accept": "*/*", "connection": "close"}


@dataclass(frozen=True)
class Pod:
    """A running `parity serve`, and the ports that it got: by the pod's names for them."""

    pid: int
    ports: dict[str, int]

    async def passes(self, name: str) -> bool:
        """What the kubelet would make of a probe now."""
        probe = container()[name]
        if "exec" in probe:
            return await self._runs(probe["exec"]["command"], probe["timeoutSeconds"])
        return 200 <= await self.status(probe["httpGet"], probe["timeoutSeconds"]) < 400

    async def status(self, get: dict[str, Any], timeout_s: float = 5.0, **headers: str) -> int:
        """The status of a GET at a named port, 0 for none in time."""
        url = f"http://127.0.0.1:{self.ports[get['port']]}{get['path']}"
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=timeout_s) as client:
                return (await client.get(url, headers={**AGENT, **headers})).status_code
        except httpx.TransportError:
            return 0

    async def _runs(self, command: list[str], timeout_s: float) -> bool:
        (declared,) = [each["containerPort"] for each in container()["ports"] if each["name"] == "http"]
        assert str(declared) in command[-1]
        words = [sys.executable, *command[1:-1], command[-1].replace(str(declared), str(self.ports["http"]))]
        process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.DEVNULL)
        try:
            return await asyncio.wait_for(process.wait(), timeout_s) == 0
        except TimeoutError:
            process.kill()
            await process.wait()
            return False

    async def all(self) -> dict[str, bool]:
        return {name: await self.passes(name) for name in PROBES}


@asynccontextmanager
async def pod(folder: Path, candidate: str, *, more: str = "", monitor: bool = True) -> AsyncIterator[Pod]:
    """A pod whose relay listens, and whose monitor does where it is to. `more` are further keys of [relay]."""
    text = here((KUBERNETES / "parity.toml").read_text(), folder)
    changes = {
        "http://llm-candidate:8000": candidate,
        "http://llm-reference:8000": "http://127.0.0.1:1",
        "[relay]\n": f"[relay]\nport = 0\n{more}",
        "[control]\n": "[control]\nport = 0\n",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    config = folder / "etc/parity/parity.toml"
    config.write_text(text)
    async with program("serve", config) as serving:
        assert serving.process.stdout is not None
        ports = {serving.listening["role"]: serving.port}
        while not {"relay", *(["control"] if monitor else [])} <= set(ports):
            said = json.loads(await asyncio.wait_for(serving.process.stdout.readline(), DEADLINE_S))
            ports[said["role"]] = said["port"]
        yield Pod(serving.pid, {"http": ports["relay"], "control": ports.get("control", 0)})


@contextmanager
def stopped(pid: int, command: str) -> Iterator[None]:
    """A supervised child that does not run: its sockets listen, its loop does not turn."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (child,) = [each for each in children if f"\0{command}\0" in Path(f"/proc/{each}/cmdline").read_text()]
    os.kill(int(child), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(int(child), signal.SIGCONT)


@pytest.fixture(autouse=True)
def _tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)


def passing(*names: str) -> dict[str, bool]:
    return {name: name in names for name in PROBES}


def test_a_candidate_that_is_gone_makes_the_pod_unready_and_restarts_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        candidate = ScriptedServer()
        await candidate.start()
        async with pod(tmp_path, candidate.url) as one:
            assert await one.all() == passing(*PROBES)
            port = candidate.port
            await candidate.aclose()
            assert await one.all() == passing("startupProbe", "livenessProbe")
            assert await one.status(container()["readinessProbe"]["httpGet"]) == 502
            async with ScriptedServer(port=port):
                assert await one.passes("readinessProbe")

    asyncio.run(main())


def test_a_monitor_that_cannot_start_costs_no_probe_and_no_client(tmp_path: Path) -> None:
    """The reason why none asks it: /healthz would have the kubelet restart the relay with it."""

    async def main() -> None:
        (tmp_path / "var/lib/parity/ledger.sqlite").mkdir(parents=True)
        async with ScriptedServer() as candidate, pod(tmp_path, candidate.url, monitor=False) as one:
            assert await one.all() == passing(*PROBES)
            assert await one.status({"port": "http", "path": "/v1/models"}) == 200

    asyncio.run(main())


def test_a_relay_whose_loop_does_not_turn_fails_although_its_socket_takes_connections(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedServer() as candidate, pod(tmp_path, candidate.url) as one:
            with stopped(one.pid, "relay"):
                _, writer = await asyncio.open_connection("127.0.0.1", one.ports["http"])  # as a tcpSocket probe would
                writer.close()
                assert await one.all() == passing()
            assert await one.all() == passing(*PROBES)

    asyncio.run(main())


@pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificate")
def test_the_relay_is_alive_under_tls_too(tmp_path: Path) -> None:
    assert OPENSSL is not None
    pem = tmp_path / "both.pem"
    made = [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(pem), "-out", str(tmp_path / "only.pem"), "-subj", "/CN=localhost"]
    subprocess.run(made, check=True, capture_output=True)
    keys = f'tls_certificate = "{tmp_path}/only.pem"\ntls_key = "{pem}"\n'

    async def main() -> None:
        async with ScriptedServer() as candidate, pod(tmp_path, candidate.url, more=keys) as one:
            assert await one.passes("livenessProbe")
            with stopped(one.pid, "relay"):
                assert not await one.passes("livenessProbe")

    asyncio.run(main())


def test_prometheus_gets_in_with_the_token_of_the_service_monitor_and_a_kubelet_without(tmp_path: Path) -> None:
    async def main() -> None:
        (endpoint,) = manifests()["ServiceMonitor", "parity"]["spec"]["endpoints"]
        authorization = endpoint["authorization"]
        (variable,) = [
            each["name"]
            for each in container()["env"]
            if each["valueFrom"]["secretKeyRef"] == authorization["credentials"]
        ]
        shown = f"{authorization['type']} {TOKENS[variable]}"
        async with ScriptedServer() as candidate, pod(tmp_path, candidate.url) as one:
            assert await one.status(endpoint) == 401
            assert await one.status(endpoint, authorization=shown) == 200
            assert await one.status({"port": "control", "path": "/healthz"}) == 200
            assert await one.status({"port": "control", "path": "/readyz"}) == 401

    asyncio.run(main())
