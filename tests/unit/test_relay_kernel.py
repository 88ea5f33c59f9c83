"""What is asked of the kernel, on real connections. The limit of open files is tested with the bounds."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest

from proxy.relay.kernel import hang_up, left_unseen, undelivered_bytes
from tests.integration.relay_rig import on_uvloop, until


async def joined() -> tuple[asyncio.Transport, socket.socket]:
    """Our end as a transport that does not read, and the peer's end as a socket."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    transport.pause_reading()
    return cast(asyncio.Transport, transport), peer


@on_uvloop
async def test_undelivered_is_all_that_the_peers_system_has_not_taken() -> None:
    transport, peer = await joined()
    size = 20 << 20
    transport.write(bytes(size))
    await asyncio.sleep(0)
    left = undelivered_bytes(transport)
    assert size // 2 < left <= size
    assert left > transport.get_write_buffer_size(), "the kernel's share counts too"
    await asyncio.to_thread(peer.recv, size, socket.MSG_WAITALL)
    await until(lambda: undelivered_bytes(transport) == 0)
    transport.abort()
    peer.close()


@on_uvloop
async def test_a_peer_that_closed_behind_unread_bytes_is_seen() -> None:
    transport, peer = await joined()
    peer.sendall(b"unread")
    assert not left_unseen(transport)
    peer.close()
    await until(lambda: left_unseen(transport))
    transport.abort()


@on_uvloop
async def test_hanging_up_is_no_end_of_stream() -> None:
    transport, peer = await joined()
    hang_up(transport)
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(peer.recv, 1)
    peer.close()
