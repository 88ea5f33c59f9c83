"""TLS on either side."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.integration.relay_rig import OK, Wire, chat, client, on_uvloop, read_request, relay, replies, until, upstream

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs the openssl command to make a certificate")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost and 127.0.0.1, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    assert OPENSSL is not None
    subprocess.run(
        [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


def _trusting(cert: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=cert)


@pytest.mark.parametrize("upload_bytes", [10, 3_000_000])
@on_uvloop
async def test_clients_over_tls(certificate: tuple[Path, Path], upload_bytes: int) -> None:
    cert, key = certificate
    tls = {"tls_certificate": cert, "tls_key": key}
    body = bytes(upload_bytes)
    async with (
        upstream(replies(OK)) as up,
        relay(up, relay=tls, client_tls=_trusting(cert)) as proxy,
        client(proxy) as c,
    ):
        for turn in (1, 2):
            c.writer.write(chat(body))
            await c.wait_for(lambda got, turn=turn: got == OK * turn)
        assert up.received == chat(body) * 2


@on_uvloop
async def test_disconnect_over_tls_reaches_the_candidate(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate

    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await wire.ended.wait()

    tls = {"tls_certificate": cert, "tls_key": key}
    async with (
        upstream(script) as up,
        relay(up, relay=tls, client_tls=_trusting(cert)) as proxy,
        client(proxy) as c,
    ):
        await c.send(chat())
        await c.wait_bytes(b"hi")
        c.kill()
        await up.wires[0].wait_end(within_s=1.0)
        await until(lambda: proxy.counters.client_disconnects == 1)


@on_uvloop
async def test_refusal_over_tls_is_readable(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    tls = {"tls_certificate": cert, "tls_key": key, "max_body_bytes": 1000}
    async with (
        upstream(replies(OK)) as up,
        relay(up, relay=tls, client_tls=_trusting(cert)) as proxy,
        client(proxy) as c,
    ):
        c.writer.write(chat(bytes(200_000)))
        assert (await c.wait_bytes(b"}}")).startswith(b"HTTP/1.1 413 ")


@on_uvloop
async def test_plain_bytes_on_the_tls_port_are_refused(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    async with (
        upstream(replies(OK)) as up,
        relay(up, relay={"tls_certificate": cert, "tls_key": key}) as proxy,
        client(proxy) as c,
    ):
        await c.send(chat())
        await c.wait_end()
        assert not up.wires


@on_uvloop
async def test_candidate_over_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with (
        upstream(replies(OK), tls=context) as up,
        relay(up, candidate_tls=_trusting(cert)) as proxy,
        client(proxy) as c,
    ):
        for turn in (1, 2):
            await c.send(chat())
            await c.wait_for(lambda got, turn=turn: got == OK * turn)
        assert len(up.wires) == 1


@on_uvloop
async def test_candidate_with_an_untrusted_certificate_is_502(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with (
        upstream(replies(OK), tls=context) as up,
        relay(up, candidate_tls=ssl.create_default_context()) as proxy,
        client(proxy) as c,
    ):
        await c.send(chat())
        assert (await c.wait_bytes(b"}}")).startswith(b"HTTP/1.1 502 ")
        assert b"POST" not in up.received
