"""SIGTERM: who is connected, who is about to be, and who does not answer a close."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.relay_rig import GET, OK, chat, client, connect, on_uvloop, relay, replies, upstream

OPENSSL = shutil.which("openssl")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost and 127.0.0.1, and its key."""
    if OPENSSL is None:
        pytest.skip("needs the openssl command to make a certificate")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


@on_uvloop
async def test_request_on_an_idle_connection_just_after_sigterm_is_answered_and_closed() -> None:
    async with upstream(replies(OK)) as up, relay(up) as proxy, client(proxy) as c, client(proxy) as fresh:
        await c.send(chat())
        await c.wait_bytes(OK)
        c.received = b""
        proxy.shutdown.set()
        await asyncio.sleep(0.2)  # a client's request that was on its way when the drain began
        await c.send(chat())
        await fresh.send(chat())
        for wire in (c, fresh):
            got = await wire.wait_end(within_s=3.0)
            assert got.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nConnection: close\r\n" in got
            assert not wire.reset
        await asyncio.wait_for(proxy.task, 3.0)


@on_uvloop
async def test_connections_in_the_backlog_at_sigterm_are_served() -> None:
    loop = asyncio.get_running_loop()
    async with upstream(replies(OK)) as up, relay(up) as proxy:
        waiting = []
        for _ in range(50):  # blocking: the kernel completes them while the relay's loop cannot accept
            sock = socket.create_connection((proxy.host, proxy.port))
            sock.sendall(GET)
            sock.setblocking(False)
            waiting.append(sock)
        proxy.shutdown.set()
        for sock in waiting:
            got = await asyncio.wait_for(loop.sock_recv(sock, 65536), 3.0)
            assert got.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Connection: close" in got
            sock.close()
        await asyncio.wait_for(proxy.task, 3.0)


@on_uvloop
async def test_backlog_at_sigterm_is_served_over_tls(certificate: tuple[Path, Path]) -> None:
    trusting = ssl.create_default_context(cafile=certificate[0])
    settings = {"tls_certificate": certificate[0], "tls_key": certificate[1]}

    def go_on(sock: socket.socket) -> bytes:
        with trusting.wrap_socket(sock, server_hostname="localhost") as wrapped:
            wrapped.sendall(GET)
            return wrapped.recv(65536)

    async with upstream(replies(OK)) as up, relay(up, relay=settings) as proxy:
        sock = socket.create_connection((proxy.host, proxy.port), timeout=5.0)
        proxy.shutdown.set()
        assert b"Connection: close" in await asyncio.to_thread(go_on, sock)
        await asyncio.wait_for(proxy.task, 5.0)


@on_uvloop
async def test_idle_tls_client_that_does_not_answer_the_close_delays_the_drain_by_little(
    certificate: tuple[Path, Path],
) -> None:
    trusting = ssl.create_default_context(cafile=certificate[0])
    settings = {"tls_certificate": certificate[0], "tls_key": certificate[1]}

    def idle() -> ssl.SSLSocket:
        wrapped = trusting.wrap_socket(socket.create_connection((proxy.host, proxy.port)), server_hostname="localhost")
        wrapped.sendall(GET)
        assert wrapped.recv(65536).startswith(b"HTTP/1.1 200 ")
        return wrapped

    async with upstream(replies(OK)) as up, relay(up, relay=settings) as proxy:
        pooled = await asyncio.to_thread(idle)
        began = time.monotonic()
        proxy.shutdown.set()
        await asyncio.wait_for(proxy.task, 6.0)
        assert time.monotonic() - began < 5.0
        pooled.close()


@on_uvloop
async def test_client_that_ends_its_handshake_during_the_drain_does_not_hold_it(
    certificate: tuple[Path, Path],
) -> None:
    trusting = ssl.create_default_context(cafile=certificate[0])
    settings = {"tls_certificate": certificate[0], "tls_key": certificate[1]}
    async with upstream(replies(OK)) as up, relay(up, relay=settings, client_tls=trusting) as proxy:
        late = socket.create_connection((proxy.host, proxy.port))
        busy = await connect(proxy)
        await busy.send(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{")
        await asyncio.sleep(0.1)
        proxy.shutdown.set()
        await asyncio.sleep(0.1)
        wrapped = await asyncio.to_thread(lambda: trusting.wrap_socket(late, server_hostname="localhost"))
        await busy.send(b"}")
        await busy.wait_bytes(b"Connection: close")
        await busy.wait_end()
        await asyncio.wait_for(proxy.task, 6.0)
        wrapped.close()


@on_uvloop
async def test_last_reply_over_tls_reaches_a_client_that_reads_late(certificate: tuple[Path, Path]) -> None:
    trusting = ssl.create_default_context(cafile=certificate[0])
    size = 12 << 20
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    settings = {
        "tls_certificate": certificate[0], "tls_key": certificate[1], "write_buffer_bytes": 16 << 20,
    }  # fmt: skip

    def late() -> int:
        sock = socket.create_connection((proxy.host, proxy.port))
        with trusting.wrap_socket(sock, server_hostname="localhost") as wrapped:
            wrapped.sendall(chat(b"{}", b"Connection: close") + b"\r\n")
            time.sleep(3.5)
            total = 0
            while data := wrapped.recv(1 << 20):
                total += len(data)
            return total

    async with upstream(replies(answer)) as up, relay(up, relay=settings) as proxy:
        assert await asyncio.to_thread(late) > size
