"""The proxies under test as processes, each before the same candidate, and the system's counters of them.

All are pinned to one core; the load and the candidate have the other. CPU is what the scheduler counted for every
thread (proc(5), schedstat, nanoseconds): user and kernel, loopback's own work included.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[3]
START_S = 90.0
SGLANG_ROUTER = ROOT / ".venv-sglang-router" / "bin" / "python"
LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"

NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_max_body_size 64m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream candidate {{ server 127.0.0.1:{candidate}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://candidate;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""

RELAY = """\
[candidate]
url = "http://127.0.0.1:{candidate}"
[reference]
url = "http://127.0.0.1:{reference}"
[relay]
port = {port}
workers = {workers}
[sampling]
rate = {rate}
large_body_rate = {large_rate}
[feed]
socket = "{folder}/feed.sock"
[ledger]
path = "{folder}/ledger.sqlite"
[control]
port = {control}
{more}
[budgets.tool_call_mismatch]
limit = 0.03
critical = true
[budgets.logprob_kl]
limit = 0.1
"""

LITELLM_CONFIG = """\
model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{candidate}/v1
      api_key: sk-bench
general_settings:
  disable_spend_logs: true
litellm_settings:
  drop_params: true
  telemetry: false
"""


@dataclass(frozen=True)
class Proxy:
    """One arm that runs. Without a pid it is the candidate itself."""

    name: str
    port: int
    pid: int = 0
    control_port: int = 0

    def pids(self) -> list[int]:
        """The process and all that it started."""
        found, todo = [], [self.pid] if self.pid else []
        while todo:
            pid = todo.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    todo += map(int, (thread / "children").read_text().split())
        return found

    def cpu_s(self, only: str = "") -> float:
        """CPU so far of its processes, of those alone whose command line holds `only`. Units: seconds."""
        total_ns = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if only and only.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    continue
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    total_ns += int((thread / "schedstat").read_text().split()[0])
        return total_ns / 1e9

    def rss_bytes(self) -> int:
        """Resident memory of its processes together; what they share counts once for each."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return total


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    name: str, argv: list[str], port: int, folder: Path, core: int | None, *, env: dict[str, str], control: int = 0
) -> Iterator[Proxy]:
    """The process, listening; ended by SIGTERM when this closes, by SIGKILL when that takes too long."""
    log = folder / f"{name}.log"

    def pinned() -> None:
        os.setsid()
        if core is not None:
            os.sched_setaffinity(0, {core})

    with log.open("wb") as sink:
        process = subprocess.Popen(
            argv, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **env}, cwd=folder, preexec_fn=pinned
        )
    try:
        deadline_s = time.monotonic() + START_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{name} does not listen:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)  # polling a process that starts, bounded by the deadline
        yield Proxy(name, port, process.pid, control)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=5)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def nginx_program() -> str | None:
    """Where nginx is; None without one."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextlib.contextmanager
def nginx(candidate: int, folder: Path, core: int | None) -> Iterator[Proxy]:
    """Debian's nginx as a reverse proxy: one worker, keep-alive upstream, nothing buffered, no log."""
    program, port = nginx_program() or "nginx", free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, candidate=candidate, port=port))
    with running("nginx", [program, "-p", str(folder), "-c", str(config)], port, folder, core, env={}) as proxy:
        yield proxy


@contextlib.contextmanager
def relay(
    candidate: int,
    folder: Path,
    core: int | None,
    *,
    name: str = "relay",
    command: str = "relay",
    workers: int = 1,
    rate: float = 0.05,
    large_rate: float | None = None,
    reference: int = 1,
    more: str = "",
) -> Iterator[Proxy]:
    """Our relay with its defaults, sampling too; `command` is `serve` for relay, supervisor and monitor together.
    `large_rate`: of the bodies past 64 KB, by default as of all and at most 5 %."""
    folder = folder / name
    folder.mkdir()
    config, port, control = folder / "parity.toml", free_port(), free_port()
    large_rate = min(rate, 0.05) if large_rate is None else large_rate
    values = {"candidate": candidate, "reference": reference, "port": port, "control": control, "workers": workers}
    config.write_text(RELAY.format(**values, folder=folder, rate=rate, large_rate=large_rate, more=more))
    argv = [sys.executable, "-m", "proxy.cli", command, "--config", str(config), "--log-level", "warning"]
    env = {"PYTHONPATH": str(ROOT)}
    listens = control if command == "monitor" else port
    with running(name, argv, listens, folder, core, env=env, control=control) as proxy:
        yield proxy


@contextlib.contextmanager
def sglang_router(candidate: int, folder: Path, core: int | None) -> Iterator[Proxy]:
    """SGLang's router (Rust) before one worker, round robin: its own wheel in its own environment."""
    port = free_port()
    argv = [str(SGLANG_ROUTER), "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--worker-urls", f"http://127.0.0.1:{candidate}", "--policy", "round_robin", "--log-level", "error"]
    argv += ["--prometheus-port", str(free_port()), "--max-payload-size", str(64 * 1024 * 1024)]
    argv += ["--disable-health-check", "--max-concurrent-requests", "4096"]
    # One runtime thread for its one core: as many as the machine has cores would only take turns on it.
    with running("sglang-router", argv, port, folder, core, env={"TOKIO_WORKER_THREADS": "1"}) as proxy:
        yield proxy


@contextlib.contextmanager
def litellm(candidate: int, folder: Path, core: int | None) -> Iterator[Proxy]:
    """LiteLLM's proxy, one worker, no database, in its own environment."""
    port, config = free_port(), folder / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(candidate=candidate))
    argv = [str(LITELLM), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    env["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # as the relay: no keys here
    with running("litellm", argv, port, folder, core, env=env) as proxy:
        yield proxy


async def watching(proxy: Proxy) -> None:
    """Returns once its monitor has opened an epoch: what was sampled before belongs to none, and is lost."""
    deadline_s = time.monotonic() + START_S
    async with httpx.AsyncClient(timeout=10) as http:
        while time.monotonic() < deadline_s:
            with contextlib.suppress(httpx.HTTPError):
                metrics = (await http.get(f"http://127.0.0.1:{proxy.control_port}/metrics")).text
                if "parity_epoch_info{" in metrics:
                    return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{proxy.name}: no epoch was opened")


async def settled(proxy: Proxy) -> None:
    """Returns once the proxy has been idle for a moment, so that one scenario's aftermath is not the next one's."""
    before_s = proxy.cpu_s()
    for _ in range(20):
        await asyncio.sleep(0.05)
        now_s = proxy.cpu_s()
        if now_s - before_s < 0.002:
            return
        before_s = now_s
