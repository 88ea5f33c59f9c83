"""docs/metrics.md is the exposition: no metric without a row, no row without a metric, no label outside its set."""

from __future__ import annotations

import re

from tests.unit.metrics_page import LABELS, PAGE, exposed_name, labels_of, render
from tests.unit.real_exposition import families


def documented() -> dict[str, tuple[str, str, str]]:
    """name to (type, labels, meaning) as the page says."""
    table = PAGE.read_text().partition("## Labels")[0]
    rows = re.findall(r"^\| `(parity_\w+)` \| (\w+) \| [^|]+ \| ([^|]*) \| (.+) \|$", table, re.MULTILINE)
    assert len({name for name, *_ in rows}) == len(rows) > 80
    return {name: (kind, ", ".join(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows}


def test_the_page_and_the_exposition_are_the_same_in_both_directions() -> None:
    real = {exposed_name(f): (f.type, ", ".join(labels_of(f)), f.documentation) for f in families("full")}
    told = documented()
    assert not real.keys() - told.keys(), "not on the page: python -m tests.unit.metrics_page"
    assert not told.keys() - real.keys(), "on the page, and no metric"
    assert told == real


def test_every_family_has_a_series_in_the_full_exposition() -> None:
    """Or its labels, and what rules select of it, would go unchecked."""
    assert not [family.name for family in families("full") if not family.samples]


def test_the_page_is_as_its_generator_writes_it() -> None:
    assert PAGE.read_text() == render(), "python -m tests.unit.metrics_page"


def test_every_label_and_its_values_are_in_their_closed_set() -> None:
    used = set()
    for kind in ("idle", "served", "full"):
        for family in families(kind):
            for sample in family.samples:
                for label, value in sample.labels.items():
                    if label == "le" or not value:
                        continue
                    used.add(label)
                    closed = {str(known) for _, values in LABELS[label] for known in values}
                    assert not closed or value in closed, (sample.name, label, value)
    assert used == set(LABELS), "a label on the page that no metric has"


def test_a_scrape_stays_small() -> None:
    """Budgets of all presets at once, and nothing asked yet: what every deployment has from the start."""
    assert sum(len(family.samples) for family in families("idle")) < 600
