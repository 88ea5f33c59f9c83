"""What a supervised process and its supervisor agree on: one port for all workers, and one death."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket

from proxy.errors import SupervisorError

SUPERVISED = "PARITY_SUPERVISED"  # in a child's environment: the supervisor's process id
_PR_SET_PDEATHSIG = 1  # prctl(2)


def reserve_port(host: str, port: int, key: str = "relay.port") -> tuple[int, socket.socket]:
    """The port for all relay workers, and a bound, not listening socket that keeps it theirs while it is open.

    Every worker binds the same port with SO_REUSEPORT. Only listening sockets are given connections. `key` is the
    setting that the port comes from, for the message.

    Raises:  SupervisorError when another program has the port (SO_REUSEPORT alone would share it silently), or when
             the host is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        holder = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA cannot encode
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise SupervisorError(f'{key.partition(".")[0]}.host: cannot use "{host}": {why}') from error
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last run in TIME_WAIT
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError as error:
        holder.close()
        raise SupervisorError(f"{key}: cannot use {host}:{port}: {error.strerror or error}") from error
    return holder.getsockname()[1], holder


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> bool:
    """True when this process will get the signal once its supervisor dies; False when it has none, or not on Linux.

    Call it first thing in a child. SIGTERM lets a relay drain; a child that can do without may pass SIGKILL.
    The kernel ties it to the thread that started the child, which for `supervise` is the loop's.
    """
    supervisor = os.environ.get(SUPERVISED, "")
    if not supervisor.isdigit() or platform.system() != "Linux":
        return False
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        return False
    if os.getppid() != int(supervisor):
        os._exit(128 + number)  # it died before we asked to be told; nothing was started yet
    return True
