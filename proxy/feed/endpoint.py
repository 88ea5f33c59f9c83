"""Where the feed is: the Unix socket's path, and listening there alone."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from proxy.errors import FeedError

_MAX_SOCKET_PATH_BYTES = 107  # sun_path holds 108 with its zero (unix(7))


def socket_path(path: Path) -> str:
    """The path as the kernel takes it. Raises: FeedError when it is longer than a socket's may be."""
    text = os.fspath(path)
    length = len(os.fsencode(text))
    if length > _MAX_SOCKET_PATH_BYTES:
        raise FeedError(
            f"feed.socket: the path has {length} bytes and a Unix socket's may have {_MAX_SOCKET_PATH_BYTES}; "
            f"use a shorter one: {text}"
        )
    return text


def listen(path: str) -> socket.socket:
    """A bound socket of mode 0600, in place of a stale one. Raises: FeedError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        previous = os.umask(0o177)  # so that there is no moment at which others could connect
        try:
            listener.bind(path)
        finally:
            os.umask(previous)
        return listener
    except OSError as error:
        listener.close()
        raise FeedError(f"feed.socket: cannot listen at {path}: {error.strerror or error}") from error
    except FeedError:
        listener.close()
        raise


def _remove_stale(path: str) -> None:
    try:
        mode = os.stat(path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FeedError(f"feed.socket: {path} exists and is no socket; choose another path or move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a live process with a full backlog answers EAGAIN, and must not hold us up
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # nobody listens: a killed monitor left it
            return
        except BlockingIOError:
            pass
    raise FeedError(f"feed.socket: another process listens at {path}; stop it, or choose another path")
