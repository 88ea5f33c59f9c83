"""Runs one engine as its only child, so that nothing of it is left: `python -m proxy.launch_command.guard ARGV...`

An engine is a tree of processes. Killed at its root, vLLM 0.32 leaves its core and workers behind, and with them the
memory they hold (seen). So a guard leads a session of its own: told to end, or once whoever started it is gone, it ends
the engine, waits a while, and kills what is left of the session. Its exit code is the engine's, 128 + n for signal n.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from proxy.supervisor.child import SUPERVISED, die_with_parent

GONE_S = 10.0  # *choice*: gigabytes are freed in a second or two
_LOOK_S = 0.02
GRACE_S = 20  # *choice*: an idle vLLM ends within five seconds of SIGTERM


def in_session(session: int) -> list[int]:
    """The processes of a session that still run, by id; none where there is no /proc."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = place.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it ended while we looked
        if int(own) == session and state not in "ZX":
            found.append(int(place.parent.name))
    return found


def kill_session(session: int, *, but: int = 0) -> int:
    """How many processes of the session had to be killed. They are gone, unless the kernel takes long over one."""
    left = [pid for pid in in_session(session) if pid != but]
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended at this moment; that is all we wanted
    deadline = time.monotonic() + GONE_S
    while set(in_session(session)) - {but} and time.monotonic() < deadline:
        time.sleep(_LOOK_S)  # a killed process still frees its memory
    return len(left)


def main(argv: list[str]) -> int:
    """The engine's exit code."""
    engine: subprocess.Popen[bytes] | None = None
    own, told = os.getsid(0), False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True  # and heard below, where the engine is only just being started
        signal.alarm(GRACE_S)
        if engine is not None:
            engine.terminate()

    def give_up(number: int, frame: FrameType | None) -> None:
        kill_session(own, but=os.getpid())

    signal.signal(signal.SIGALRM, give_up)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    die_with_parent(signal.SIGTERM)
    kept = {name: value for name, value in os.environ.items() if name != SUPERVISED}
    try:
        engine = subprocess.Popen(argv, env=kept, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{argv[0]}: {error.strerror or error}", file=sys.stderr)
        return 127
    if told:
        engine.terminate()
    code = engine.wait()
    signal.alarm(0)
    kill_session(own, but=os.getpid())
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
