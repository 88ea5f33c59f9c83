"""The relay beside nginx: the same raw bytes to both, before the same recording upstream.

Asserted for every case: the relay never passes on a whole request that nginx does not; what both pass on is
equivalent; and the relay passes on all that nginx does, unless the case says why it is stricter.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.relay_cases import LIMIT_BYTES, Case, cases
from tests.integration.relay_rig import OK, Wire, dechunk, on_uvloop, relay, until, upstream

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
QUIET_S = 0.4  # choice: an exchange is over when nothing came for that long
SILENT_S = 2.0  # choice: and when nothing came at all, for that long
AT_ONCE = 72
CONF = """
daemon off; master_process off; pid {prefix}/nginx.pid; error_log {prefix}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; server_tokens off;
  client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fcgi;
  uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
  client_max_body_size {limit}; large_client_header_buffers 4 16k;
  underscores_in_headers on; ignore_invalid_headers off;
  upstream candidate {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location /v1/ {{
      proxy_pass http://candidate; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_request_buffering off; proxy_buffering off; proxy_next_upstream off;
    }}
    location / {{ return 404; }}
  }}
}}
"""
HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"expect",
}


@dataclass(frozen=True)
class Request:
    """A whole request as the upstream understood it."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass
class Outcome:
    """What one case led to."""

    statuses: list[bytes] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)


def read_one(data: bytes, port: int) -> tuple[Request | None, int]:
    """The first whole request in the data, and where it ends; None and 0 when it is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None, 0
    first, *lines = data[:end].split(b"\r\n")
    method, target, version = first.split(b" ")
    assert version == b"HTTP/1.1", first
    pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    named = [value for name, value in pairs if name == b"content-length"]
    coded = [value.lower() for name, value in pairs if name == b"transfer-encoding"]
    assert len(named) + len(coded) <= 1, f"ambiguous framing went upstream: {data[: end + 4]!r}"
    rest = data[end + 4 :]
    if coded:
        assert coded == [b"chunked"]
        stop = rest.find(b"0\r\n\r\n") if rest.startswith(b"0") else rest.find(b"\r\n0\r\n\r\n") + 2
        while stop >= 2 or rest.startswith(b"0"):
            body, whole = dechunk(rest[: stop + 5])
            if whole:
                break
            following = rest.find(b"\r\n0\r\n\r\n", stop + 1)
            if following < 0:
                return None, 0
            stop = following + 2
        else:
            return None, 0
        length = stop + 5
    else:
        length = int(named[0]) if named else 0
        body = rest[:length]
        if len(body) < length:
            return None, 0
    # To an HTTP/1.0 client that named no host, the relay is polite: it names the upstream's, nginx none.
    supplied = (b"host", b"127.0.0.1:%d" % port)
    kept = [pair for pair in pairs if pair[0] not in HOP_BY_HOP and pair[0] != b"content-length" and pair != supplied]
    # A body of no bytes is the same with a length of 0 and without one.
    return Request(method, target, tuple(sorted(kept)), body), end + 4 + length


@dataclass
class Recorder:
    """Answers every whole request, and keeps it under the number of its case."""

    by_case: dict[int, list[Request]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)

    async def script(self, wire: Wire) -> None:
        position = 0
        port: int = wire.writer.get_extra_info("sockname")[1]
        while True:
            try:
                request, length = read_one(wire.received[position:], port)
            except (AssertionError, ValueError) as error:
                self.faults.append(f"{wire.received[position:][:300]!r}: {error}")
                return
            if request is None:
                seen = len(wire.received)
                await wire.wait_for(lambda got, seen=seen: len(got) > seen, within_s=120)  # type: ignore[misc]
                continue
            position += length
            found = re.search(rb"case=(\d+)", request.target)
            self.by_case[int(found[1]) if found else -1].append(request)
            await wire.send(OK if request.method != b"HEAD" else OK[:-2])


async def play(host: str, port: int, case: Case, number: int) -> list[bytes]:
    """The statuses that the case's client got."""
    reader, writer = await asyncio.open_connection(host, port)
    wire = Wire(reader, writer)
    pieces = case.numbered(number)
    for index, piece in enumerate(pieces):
        if index:
            await asyncio.sleep(0.03)
        writer.write(piece)
        try:
            await writer.drain()
        except ConnectionError:
            break
    if case.half_close:
        writer.write_eof()
    await _over(wire)
    statuses = re.findall(rb"HTTP/1\.1 (\d{3})", wire.received)
    await wire.aclose()
    return statuses


async def _over(wire: Wire) -> None:
    """Returns once the connection ended or nothing more comes.

    On a busy machine a pause proves little: one in which this loop itself was held up does not count, and before the
    first byte of a reply it takes longer to believe that none will come.
    """
    loop = asyncio.get_running_loop()
    quiet_s = 0.0
    while not wire.ended.is_set() and quiet_s < (QUIET_S if wire.received else SILENT_S):
        seen, begun_s = len(wire.received), loop.time()
        await asyncio.sleep(QUIET_S)
        held_up = loop.time() - begun_s > 1.5 * QUIET_S
        if len(wire.received) != seen:
            quiet_s = 0.0
        elif not held_up:
            quiet_s += QUIET_S


async def play_all(host: str, port: int, recorder: Recorder) -> list[Outcome]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, case: Case) -> Outcome:
        async with gate:
            return Outcome(statuses=await play(host, port, case, number))

    outcomes = await asyncio.gather(*(one(number, case) for number, case in enumerate(cases())))
    for number, outcome in enumerate(outcomes):
        outcome.requests = recorder.by_case[number]
    return list(outcomes)


@asynccontextmanager
async def nginx(prefix: Path, upstream_port: int) -> AsyncIterator[int]:
    """A running nginx before the upstream; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    conf = prefix / "nginx.conf"
    conf.write_text(CONF.format(prefix=prefix, upstream=upstream_port, port=port, limit=LIMIT_BYTES))
    assert NGINX is not None
    process = await asyncio.create_subprocess_exec(
        NGINX, "-p", str(prefix), "-c", str(conf), "-e", str(prefix / "error.log"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: _answers(port))
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_there_are_three_hundred_cases() -> None:
    assert len(cases()) >= 300


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")
@on_uvloop
async def test_relay_passes_on_what_nginx_does_and_refuses_what_it_refuses(tmp_path: Path) -> None:
    by_nginx, by_relay = Recorder(), Recorder()
    limits = {"max_body_bytes": LIMIT_BYTES}
    async with upstream(by_nginx.script) as up, nginx(tmp_path, up.port) as port:
        theirs = await play_all("127.0.0.1", port, by_nginx)
    async with upstream(by_relay.script) as up, relay(up, relay=limits) as proxy:
        ours = await play_all(proxy.host, proxy.port, by_relay)
        await until(lambda: proxy.counters.in_flight == 0)
    faults = [f"no request: {fault}" for fault in by_relay.faults]
    for case, their, our in zip(cases(), theirs, ours, strict=True):
        if our.requests != their.requests[: len(our.requests)]:
            faults.append(f"{case.name}: passed on {our.requests}, nginx {their.requests} {their.statuses}")
        elif len(our.requests) < len(their.requests) and not case.stricter:
            faults.append(f"{case.name}: refused {our.statuses} what nginx served: {their.statuses} {their.requests}")
        elif our.statuses.count(b"200") != len(our.requests) and not case.half_close:
            faults.append(f"{case.name}: {our.statuses} to the client, {len(our.requests)} whole requests upstream")
    assert by_relay.by_case[-1] == by_nginx.by_case[-1] == []
    assert not faults, "\n".join(faults)
    passed = sum(len(outcome.requests) for outcome in ours)
    refused = sum(not outcome.requests for outcome in ours)
    assert passed > 150, "hardly anything was compared"
    assert refused > 100, "hardly anything was refused"
