"""The documents name tests and files; what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backends.capabilities import Capability

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "deploy/README.md",
    *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))),
]


def test_every_test_that_the_failures_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "failures.md").read_text()))
    written = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text())
    }
    assert len(named) >= 25
    assert named <= written, sorted(named - written)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    paths = re.findall(r"`((?:docs|proxy|backends|scorers|tests|deploy|training)/[\w./-]+)`", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing, missing


def test_the_engines_page_has_a_row_for_each_capability_in_both_tables() -> None:
    text = (ROOT / "docs" / "engines.md").read_text()
    costs, _, engines = text.partition("## Who gives what")
    for table in (costs, engines):
        rows = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
        assert [row for row in rows if row in set(Capability)] == list(map(str, Capability))
