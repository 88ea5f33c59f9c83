"""A budget's course as an SVG picture: value and upper bound against limit and noise floor, over time.

Pure: the same points give the same picture. No style stands in an attribute, for the page's policy allows none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from proxy.monitor.page.html import Html, tag
from proxy.monitor.page.words import clock, figure
from proxy.monitor.trail import Course
from scorers.evidence import LaneSums
from scorers.judge import Budget

WIDTH, HEIGHT = 360.0, 168.0
LEFT, RIGHT, TOP, BOTTOM = 16.0, 4.0, 8.0, 22.0
MAX_STRETCHES = 16  # *choice*: bars, each the mean of one stretch of time
MIN_STRETCH_PAIRS = 10  # *choice*: a single mismatch is no stretch that went badly
HEADROOM = 1.6  # *choice*: the limit stands at most at 1/1.6 of the height

Bound = Callable[[int, float, float], float | None]
"""`scorers.planning.upper_bound`, or one that remembers its answers."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One point of a lane. Units: `at` seconds since the Unix epoch, or rows where times are not known."""

    at: float
    sums: LaneSums


@dataclass(frozen=True, slots=True)
class Lane:
    """One lane ready to be drawn: its dots, what they are measured against, and where it turned over its limit."""

    budget: Budget
    dots: tuple[Dot, ...]
    timed: bool
    alpha: float
    over_at: float | None = None


def lane_of(course: Course, name: str, lane: str, over_at: float | None) -> Lane | None:
    """A lane of a course; None where there is nothing to draw."""
    budget = next((one for one in course.budgets if one.name == name), None)
    if budget is None:
        return None
    found = [(point, point.sums[name][lane]) for point in course.points if lane in point.sums.get(name, {})]
    times = accumulate(
        (point.at_unix_s or 0.0 for point, _ in found), max
    )  # requests at once: sampled order, not time's
    dated = [
        (at, sums)
        for at, (point, sums) in zip(times, found, strict=True)
        if point.at_unix_s is not None and sums.samples
    ]
    timed = len(dated) > 1 and dated[-1][0] > dated[0][0]
    if timed:
        dots = tuple(Dot(at, sums) for at, sums in dated)
    else:
        dots = tuple(Dot(float(point.rows), sums) for point, sums in found if sums.samples)
    if len(dots) < 2:
        return None
    return Lane(budget, dots, timed, course.alpha_promote, over_at if timed else None)


def picture(lane: Lane, bound: Bound, told: str) -> Html:
    """The picture; `told` says in words what it shows."""
    budget, dots = lane.budget, lane.dots
    values = [dot.sums.total / dot.sums.samples for dot in dots]
    bounds = [_bound(lane, dot.sums, bound) for dot in dots]
    floors = [dot.sums.noise_total / dot.sums.noise_samples if dot.sums.noise_samples else None for dot in dots]
    settled = values[len(values) // 4 :]
    top = HEADROOM * max(budget.limit, *settled, *(floor for floor in floors[-1:] if floor is not None))
    first, last = dots[0].at, dots[-1].at

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - first) / (last - first)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(value / top, 0.0), 1.0)

    def line(values: Sequence[float | None]) -> str:
        return " ".join(f"{x(d.at):.1f},{y(v):.1f}" for d, v in zip(dots, values, strict=True) if v is not None)

    back = " ".join(f"{x(d.at):.1f},{y(v):.1f}" for d, v in reversed(list(zip(dots, values, strict=True))))
    limit_y = y(budget.limit)
    marks = [
        _line("axis", LEFT, y(0.0), WIDTH - RIGHT, y(0.0)),
        [_bar(x(a), x(b), y(mean), y(0.0), mean > budget.limit) for a, b, mean in _stretches(dots)],
        tag("polygon", points=f"{line(bounds)} {back}", class_="upto"),
        tag("polyline", points=line(values), class_="seen"),
        tag("polyline", points=line(floors), class_="floor") if any(f is not None for f in floors) else None,
        _line("limit", LEFT, limit_y, WIDTH - RIGHT, limit_y),
        _text("limit", LEFT + 4, limit_y - 5, f"limit {figure(budget.limit, budget.unit)}", "start"),
        _text("axis", LEFT - 4, y(0.0) + 4, "0", "end"),
    ]
    if lane.over_at is not None and first <= lane.over_at <= last:
        at = x(lane.over_at)
        end = at > WIDTH / 2
        marks.append(_line("over", at, TOP, at, HEIGHT - BOTTOM))
        said = f"over since {clock(lane.over_at, last - first)}"
        marks.append(_text("over", at - 4 if end else at + 4, TOP + 11, said, "end" if end else "start"))
    ends = [clock(at, last - first) if lane.timed else f"row {at:,.0f}" for at in (first, last)]
    marks += [
        _text("axis", LEFT, HEIGHT - 6, ends[0], "start"),
        _text("axis", WIDTH - RIGHT, HEIGHT - 6, ends[1], "end"),
    ]
    return tag("svg", marks, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_label=told, class_="chart")


def latest_mean(lane: Lane) -> float | None:
    """The mean of the latest stretch, the last bar of the picture; None while no stretch has enough pairs."""
    stretches = _stretches(lane.dots)
    return stretches[-1][2] if stretches else None


def _bound(lane: Lane, sums: LaneSums, bound: Bound) -> float | None:
    found = bound(sums.samples + sums.lost, sums.capped_total + sums.lost, lane.alpha)
    return found if found is None or lane.budget.bounded else found * lane.budget.cap


def _stretches(dots: Sequence[Dot]) -> list[tuple[float, float, float]]:
    """(begin, end, mean) of stretches of the course: what the whole's mean hides, how the latest went."""
    step = -(-(len(dots) - 1) // MAX_STRETCHES)
    found = []
    a = dots[0]
    for b in [*dots[step:-1:step], dots[-1]]:
        samples = b.sums.samples - a.sums.samples
        if samples >= MIN_STRETCH_PAIRS and b.at > a.at:
            found.append((a.at, b.at, (b.sums.total - a.sums.total) / samples))
            a = b
    return found


def _bar(left: float, right: float, top: float, base: float, over: bool) -> Html:
    shape = {"x": f"{left + 0.5:.1f}", "y": f"{top:.1f}", "width": f"{max(right - left - 1.0, 0.5):.1f}"}
    return tag("rect", **shape, height=f"{max(base - top, 0.0):.1f}", class_="stretch over" if over else "stretch")


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Html:
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind)


def _text(kind: str, x: float, y: float, said: str, anchor: str) -> Html:
    return tag("text", said, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=kind)
