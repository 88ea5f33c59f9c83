"""The relay's cost: beside its peers, with the mirror at work, with many workers on one port, beside large bodies.

    python -m tests.bench.relay [--rounds 9] [--mirror-rounds 15] [--part peers|mirror|workers|large]
                                [--arm NAME] [--scenario NAME]

Results go to docs/bench/relay.json and docs/performance.md. `make bench-peers` installs the peers, each in an
environment of its own; those that are missing are left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.relay import large, mirror, page, peers, proxies, workers

PARTS = ("peers", "mirror", "workers", "large")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every promise was kept in the median, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mirror-rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("docs/bench/relay.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; the rest stays as it is")
    parser.add_argument("--arm", choices=tuple(peers.MAKERS), action="append", help="only these arms")
    parser.add_argument("--scenario", action="append", help="only these scenarios")
    given = parser.parse_args(arguments)
    arms, missing = _installed(tuple(given.arm or peers.MAKERS))
    for name in missing:
        print(f"{name} is left out: it is not installed (make bench-peers; nginx from the system's packages)")
    told: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    parts = given.part or PARTS
    if "peers" in parts:
        told.update(uvloop.run(peers.run(given.rounds, arms, tuple(given.scenario or ()))))
        told["rounds"] = given.rounds
    if "mirror" in parts:
        told.update(uvloop.run(mirror.run(given.mirror_rounds)))
        told["mirror_rounds"] = given.mirror_rounds
    for part, measure in (("workers", workers.run), ("large", large.run)):
        if part in parts:
            told.update(uvloop.run(measure(given.rounds)))
            told[f"{part}_rounds"] = given.rounds
    rounds, mirror_rounds = told.get("rounds", given.rounds), told.get("mirror_rounds", given.mirror_rounds)
    told["command"] = f"python -m tests.bench.relay --rounds {rounds} --mirror-rounds {mirror_rounds}"
    told["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    promises = page.promises(told)
    told["kept"] = {name: kept for name, (_, kept) in promises.items()}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    given.page.write_text(
        page.filled(given.page.read_text(encoding="utf-8"), "relay", page.tables(told)), encoding="utf-8"
    )
    return page.said(promises)


def _installed(arms: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    there = {
        "nginx": proxies.nginx_program() is not None,
        "relay": True,
        "sglang-router": proxies.SGLANG_ROUTER.exists(),
        "litellm": proxies.LITELLM.exists(),
    }
    return tuple(arm for arm in arms if there[arm]), [arm for arm in arms if not there[arm]]


if __name__ == "__main__":
    sys.exit(main())
