"""The roofline as an SVG: attainable rate over intensity, a line for each recipe and a dot where its batch stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from backends.recipes.roofline import Roofline

WIDTH, HEIGHT = 760, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 46, 84
_COLOURS = ("#0b6e99", "#c2571a", "#4c7a34")  # apart for the colour-blind, and dashed apart too
_DASHES = ("", "7 4", "2 3")


@dataclass(frozen=True, slots=True)
class _Scale:
    """Decades to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def svg(rooflines: Sequence[tuple[str, Roofline]], title: str) -> str:
    """A whole SVG document. x: FLOP per byte read; y: FLOP/s; both logarithmic.

    Raises:  ValueError for no roofline, or more than three.
    """
    if not 0 < len(rooflines) <= len(_COLOURS):
        raise ValueError(f"between one and {len(_COLOURS)} rooflines can be told apart in one picture")
    roofs = [roof for _, roof in rooflines]
    x_low = math.floor(math.log10(min(1.0, *(roof.intensity for roof in roofs))))
    x_high = math.ceil(math.log10(max(max(roof.ridge, roof.intensity) for roof in roofs) * 2))
    y_high = math.ceil(math.log10(max(roof.ridge * roof.bandwidth for roof in roofs)))
    y_low = math.floor(math.log10(min(10**x_low * roof.bandwidth for roof in roofs)))
    x = _Scale(x_low, x_high, _LEFT, WIDTH - _RIGHT)
    y = _Scale(y_low, y_high, HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
        *_grid(x, y, (x_low, x_high), (y_low, y_high)),
    ]
    for number, (name, roof) in enumerate(rooflines):
        parts += _line(x, y, name, roof, number, 10.0**x_low, 10.0**x_high)
    return "\n".join([*parts, "</svg>", ""])


def _grid(x: _Scale, y: _Scale, xs: tuple[int, int], ys: tuple[int, int]) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for power in range(xs[0], xs[1] + 1):
        at = x(10.0**power)
        parts.append(f'<path d="M{at:.1f} {_TOP}V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{10.0**power:g}</text>')
    for power in range(ys[0], ys[1] + 1):
        at = y(10.0**power)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{10.0 ** (power - 12):g}</text>')
    middle = (_TOP + bottom) / 2
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{bottom + 32}" text-anchor="middle">FLOP per byte read</text>')
    parts.append(
        f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">TFLOP/s attainable</text>'
    )
    return parts


def _line(x: _Scale, y: _Scale, name: str, roof: Roofline, number: int, low: float, high: float) -> list[str]:
    colour, dash = _COLOURS[number], _DASHES[number]
    peak = roof.ridge * roof.bandwidth
    at = min(roof.intensity, roof.ridge) * roof.bandwidth
    points = [(low, low * roof.bandwidth), (roof.ridge, peak), (high, peak)]
    path = "M" + "L".join(f"{x(one):.1f} {y(two):.1f}" for one, two in points)
    legend = HEIGHT - 34 + 14 * number
    told = (
        f"{name}: {roof.decode_tokens_s:,.0f} tokens/s at batch {roof.batch}, {roof.bound}-bound "
        f"({roof.intensity:.0f} of {roof.ridge:.0f} FLOP/byte)"
    )
    return [
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>',
        f'<circle cx="{x(roof.intensity):.1f}" cy="{y(at):.1f}" r="5" fill="{colour}"/>',
        f'<path d="M{_LEFT} {legend - 4}h26" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>',
        f'<text x="{_LEFT + 34}" y="{legend}">{escape(told)}</text>',
    ]
