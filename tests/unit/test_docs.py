"""The documents name tests and files; what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_that_the_failures_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "failures.md").read_text()))
    written = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text())
    }
    assert len(named) >= 25
    assert named <= written, sorted(named - written)


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "docs/failures.md", "docs/staged-rollout.md"])
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    paths = re.findall(r"`((?:docs|proxy|backends|scorers|tests|deploy|training)/[\w./-]+)`", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing, missing
