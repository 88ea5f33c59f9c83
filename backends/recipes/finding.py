"""One thing that was found about a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: the key it is about, what is so, and what to do."""

    level: Level
    key: str
    found: str
    fix: str
    rule: str
    source: str = ""

    def as_dict(self) -> dict[str, str]:
        """JSON-ready."""
        return {
            "level": self.level, "key": self.key, "found": self.found, "fix": self.fix,
            "rule": self.rule, "source": self.source,
        }  # fmt: skip
