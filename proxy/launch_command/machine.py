"""What this machine has before anything is started: a free port, and memory."""

from __future__ import annotations

from pathlib import Path

from proxy.errors import LaunchError, SupervisorError
from proxy.supervisor.child import reserve_port

_CGROUP = Path("/sys/fs/cgroup")


def hold_port(side: str, host: str, port: int) -> None:
    """Raises: LaunchError when another program has the port, or the host is none of this machine's.

    vLLM finds out only once its weights are loaded.
    """
    try:
        _, holder = reserve_port(host, port, f"{side}.port")
    except SupervisorError as error:
        raise LaunchError(f"{error}; take another --{side}-port, or --host") from None
    holder.close()


def free_bytes() -> float | None:
    """Memory that programs can still take, by the kernel and by this container's limit; None where neither tells."""
    told = [size for size in (_available(), _left_in_group()) if size is not None]
    return min(told, default=None)


def _available() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = (one for one in lines if one.startswith("MemAvailable:"))
        return float(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None


def _left_in_group() -> float | None:
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return None if limit == "max" else max(0.0, float(limit) - float(used))
    except (OSError, ValueError):
        return None
