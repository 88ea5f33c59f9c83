"""The page's parts by themselves: pictures, divergences, words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.monitor.page.budgets import budgets_section
from proxy.monitor.page.chart import HEIGHT, WIDTH, lane_of, picture
from proxy.monitor.page.differs import marked, parting
from proxy.monitor.page.html import join
from proxy.monitor.page.shown import Shown
from proxy.monitor.page.words import ago, clock, counted, figure, reason_words, stratum_words
from proxy.monitor.rows import Ineligible
from proxy.monitor.trail import Course, TrailPoint
from scorers.budgets import LENGTH_BUCKETS
from scorers.evidence import LaneSums
from scorers.judge import Budget
from scorers.planning import upper_bound
from scorers.records import Reason
from scorers.verdict import BudgetVerdict
from tests.unit.monitor_samples import lane, verdict

BUDGET = Budget("tool_call_mismatch", 0.05, True, True, unit="ratio")


def course(values: list[float], *, times: list[float] | None = None, budget: Budget = BUDGET) -> Course:
    """One point per 20 rows, whose mean since the point before is the value."""
    points, total = [], 0.0
    for n, value in enumerate(values):
        total += 20 * value
        rows = 20 * (n + 1)
        sums = {budget.name: {"all": LaneSums(rows, 0, total, total, rows, 0.01 * rows)}}
        at = None if times == [] else (times or [100.0 + k for k in range(len(values))])[n]
        points.append(TrailPoint(rows, rows - 1, at, sums))
    return Course((budget,), 0.05, tuple(points))


def drawn(of: Course, over_at: float | None = None) -> str:
    lane = lane_of(of, BUDGET.name, "all", over_at)
    assert lane is not None
    return picture(lane, upper_bound, "told")


def points(svg: str, kind: str) -> list[tuple[float, float]]:
    """The places of a line, as shares of the picture's width and of its height from below."""
    found = re.search(rf'points="([^"]*)" class="{kind}"', svg)
    assert found
    return [tuple(map(float, place.split(","))) for place in found[1].split()]  # type: ignore[misc]


def limit_y(svg: str) -> float:
    found = re.search(r'y1="([\d.]+)"[^>]*class="limit"', svg)
    assert found
    return float(found[1])


def test_a_pass_of_the_whole_does_not_hide_a_latest_stretch_that_is_over() -> None:
    def said(values: list[float]) -> str:
        passed = BudgetVerdict(BUDGET.name, 0.05, True, "ratio", None, 1.3, 2.0, lane("pass", samples=200), {})
        judged = verdict("pass", budgets={BUDGET.name: passed})
        return budgets_section(Shown(judged, {}, {}, 1_000.0, course=course(values)))

    assert "Within its limit, for certain." in said([0.0, 0.9] + [0.0] * 8)
    assert "Within its limit over all pairs so far; 40 % in the latest stretch." in said([0.0] * 9 + [0.4])


def test_what_is_over_the_limit_stands_above_its_line() -> None:
    good, bad = drawn(course([0.0] * 10)), drawn(course([0.0] * 5 + [0.5] * 5))
    assert all(y > limit_y(good) for _, y in points(good, "seen"))
    assert points(bad, "seen")[-1][1] < limit_y(bad) < points(bad, "seen")[4][1]
    assert points(bad, "floor")[0][1] > limit_y(bad)
    assert bad.count('class="stretch over"') == 5
    assert bad.count('class="stretch"') == 4
    assert good.count('class="stretch over"') == 0


def test_a_stretch_is_red_from_the_limit_on() -> None:
    svg = drawn(course([0.0, 0.02, 0.06, 0.05]))
    assert re.findall(r'class="(stretch[^"]*)"', svg) == ["stretch", "stretch over", "stretch"]


def test_the_bound_is_the_judges_and_lies_above_the_value() -> None:
    svg = drawn(course([0.02] * 10))
    upper = points(svg, "upto")[:10]
    assert all(u <= v for (_, u), (_, v) in zip(upper, points(svg, "seen"), strict=True))
    bound = upper_bound(200, 4.0, 0.05)
    assert bound is not None
    scale = (points(svg, "seen")[-1][1] - limit_y(svg)) / (0.05 - 0.02)
    assert upper[-1][1] == pytest.approx(limit_y(svg) - scale * (bound - 0.05), abs=0.5)


def test_an_unbounded_scores_bound_is_in_its_own_unit() -> None:
    kl = Budget("logprob_kl", 0.05, False, False, unit="nats")
    lane = lane_of(course([0.01] * 40, budget=kl), "logprob_kl", "all", None)
    assert lane is not None
    svg = picture(lane, lambda count, total, alpha: 0.08, "told")  # of the cap of 0.5: 0.04
    assert points(svg, "upto")[0][1] > limit_y(svg)
    assert "limit 0.05 nats" in svg


def test_times_are_the_axis_and_rows_where_none_is_known() -> None:
    assert "00:01:40" in drawn(course([0.0] * 3))
    assert "row 20" in drawn(course([0.0] * 3, times=[]))
    assert "over since 00:01:41" in drawn(course([0.0] * 3), 101.0)
    assert "over since" not in drawn(course([0.0] * 3, times=[]), 101.0)
    assert "over since" not in drawn(course([0.0] * 3), 5.0)  # before the picture begins


def test_requests_at_once_do_not_turn_time_back() -> None:
    xs = [x for x, _ in points(drawn(course([0.0] * 5, times=[100.0, 103.0, 101.0, 102.0, 110.0])), "seen")]
    assert xs == sorted(xs)


@pytest.mark.parametrize("of", [Course(), course([]), course([0.5]), course([0.1] * 3, times=[5.0] * 3)])
def test_too_little_to_draw_is_drawn_by_rows_or_not_at_all(of: Course) -> None:
    lane = lane_of(of, BUDGET.name, "all", None)
    assert lane is None or not lane.timed
    assert lane_of(of, "nothing", "all", None) is None


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=64))
def test_everything_stays_inside_the_picture(values: list[float]) -> None:
    svg = drawn(course(values))
    for kind in ("seen", "upto", "floor"):
        assert all(0.0 <= x <= WIDTH and 0.0 <= y <= HEIGHT for x, y in points(svg, kind))
    assert len(svg) < 12_000
    assert "nan" not in svg
    assert "style=" not in svg


def test_texts_part_at_the_beginning_of_a_word() -> None:
    found = parting("the code is 4711 today", "the code is 4712 today")
    assert found is not None
    assert (found.char, found.word) == (12, 4)
    assert found.left == ("the code is ", "4711 today")
    assert found.right == ("the code is ", "4712 today")
    assert parting("same", "same") is None
    shorter = parting("one two", "one two three")
    assert shorter is not None
    assert shorter.left[1] == "two"  # an end is a divergence too


@given(st.text("ab \n", max_size=40), st.text("ab \n", max_size=40))
def test_both_texts_stay_whole_and_part_once(left: str, right: str) -> None:
    shown = [re.sub(r"<[^>]*>", "", join(side).replace("parts here", "")) for side in marked(left, right)]
    assert shown == [left, right]
    found = parting(left, right)
    assert (found is None) == (left == right)
    if found is not None:
        assert left[: found.char] == right[: found.char]
        assert join(marked(left, right)[0]).count("parts here") == 1


def test_every_reason_is_said_in_words() -> None:
    known = [reason.value for reason in Reason if reason.lost] + [one.value for one in Ineligible]
    said = {name: reason_words(name) for name in known}
    assert [name for name, words in said.items() if words == name.replace("_", " ")] == []
    assert len(set(said.values())) == len(said)
    assert counted({"late": 2, "new_one": 30}) == ["30: new one", "2: not finished in time"]


def test_strata_spans_and_figures_are_said_in_words() -> None:
    assert stratum_words("4k-16k/tools/stream/greedy") == (
        "prompts of 4k-16k tokens, tools offered, streamed, temperature 0"
    )
    assert [stratum_words(name) for name, _ in LENGTH_BUCKETS][-1] == "prompts of 64k+ tokens"
    assert (stratum_words("all"), stratum_words("unknown")) == ("all requests", "never read")
    assert [ago(s) for s in (-3, 0, 59, 61, 3_600, 7_500, 90_000)] == [
        "0 s",
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h",
        "2 h 5 min",
        "1 d 1 h",
    ]
    assert (figure(0.05, "ratio"), figure(0.0512, "nats"), figure(None, "nats"), figure(None)) == (
        "5 %",
        "0.0512 nats",
        "unknown",
        "none",
    )
    assert (clock(100.0, 60.0), clock(100.0, 7_200.0), clock(100.0, 1e6)) == ("00:01:40", "00:01", "Jan 01 00:01")
