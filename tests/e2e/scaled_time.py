"""Production's windows in a test's time: every duration of rules, queries and configuration divided by one factor.

The rules are those of `deploy/prometheus/rules`, read and rewritten, never written anew: what fires here is what is
deployed, FACTOR times as fast. Names keep their windows (`rate30m` is a name); thresholds and sample counts stay too,
so a scaled window holds FACTOR times fewer pairs than production's, and its guards are the harder to satisfy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FACTOR = 30  # *choice*: the fast burn's 30 minutes take one, and a scrape every 15 s is one every half second

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = r"(\d+)([smhd])"
# Where a duration can stand in PromQL, and in a rule: [30m], [6h:1m], offset 5m, `for: 2m`.
_PLACES = re.compile(rf"(?:(?<=\[)|(?<=:)|(?<=offset )|(?<=for: )){_DURATION}(?=[\]:\s]|$)", re.MULTILINE)

DEPLOYED = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


def seconds(duration: str) -> float:
    """A duration as Prometheus writes it, scaled. Units: seconds. Raises: ValueError for what is none."""
    found = re.fullmatch(_DURATION, duration)
    if found is None:
        raise ValueError(f"{duration!r} is no duration")
    return int(found[1]) * _UNITS_S[found[2]] / FACTOR


def scaled(text: str) -> str:
    """Rules or a query with every duration divided by FACTOR, to the millisecond."""
    return _PLACES.sub(lambda found: _short(found[0]), text)


def configuration(folder: Path, *, target: str, alertmanager: str) -> Path:
    """The deployed configuration and rules, scaled, in a folder: the path of its prometheus.yml.

    `target` and `alertmanager` are host:port.
    """
    (folder / "rules").mkdir(parents=True)
    for file in (DEPLOYED / "rules").glob("*.yml"):
        (folder / "rules" / file.name).write_text(scaled(file.read_text()))
    config: dict[str, Any] = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    config["global"] = {name: _short(value) for name, value in config["global"].items()}
    config["global"]["scrape_timeout"] = config["global"]["scrape_interval"]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


def _short(duration: str) -> str:
    return f"{round(seconds(duration) * 1000)}ms"
