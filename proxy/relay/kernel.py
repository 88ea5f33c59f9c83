"""What the system knows of a connection and the event loop does not; and how many connections it allows."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import resource
import socket
import struct
import sys
import termios

from proxy.settings import RelaySettings

_log = logging.getLogger(__name__)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_TCP_GONE = (7, 8)  # tcpi_state CLOSE and CLOSE_WAIT: the peer closed, though we have not read up to its end yet
_OTHER_FILES = 64  # choice: listening, feed, logs, the loop's own


def undelivered_bytes(transport: asyncio.Transport) -> int:
    """What the peer's system has not taken yet. The kernel's share tells of TLS, whose buffers cannot be seen."""
    queued = fcntl.ioctl(_socket(transport).fileno(), termios.TIOCOUTQ, bytes(4))
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)


def left_unseen(transport: asyncio.Transport) -> bool:
    """Whether the peer closed behind bytes that are not read yet."""
    return _socket(transport).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _TCP_GONE


def hang_up(transport: asyncio.Transport) -> None:
    """Closes at once, and so that the peer can tell it from an end."""
    _socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


def raise_open_files(relay: RelaySettings) -> None:
    """Every connection is an open file; one more than the system allows could not even be refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = relay.max_connections + relay.max_in_flight + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "relay.max_connections and relay.max_in_flight need %d open files, but the limit is %d; "
            "lower them, or raise it (ulimit -n, LimitNOFILE=)",
            wanted,
            allowed,
        )


def _socket(transport: asyncio.Transport) -> socket.socket:
    found: socket.socket = transport.get_extra_info("socket")
    return found
