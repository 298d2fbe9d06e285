"""Charts as SVG that follow the page's colours: lines by epoch or by k, bars by rank.

A series is a name and its values; the page's style sheet colours series s by the class `s<s>`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40


@dataclass(frozen=True)
class Series:
    """A line: points (x, y), and the lowest and highest y at each x where seeds differ."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Axes:
    """The two axes: their labels, and whether x is logarithmic."""

    x: str
    y: str
    logarithmic: bool = False
    most: float | None = None
    """The top of the y axis; None: the highest value."""


def line_chart(title: str, axes: Axes, series: Sequence[Series]) -> str:
    """Draw lines; "" without any point."""
    drawn = [line for line in series if line.points]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    ys += [y for line in drawn for pair in line.band for y in pair]
    scale = _Scale(min(xs), max(xs), axes.most or _nice(max(ys)), logarithmic=axes.logarithmic)
    parts = [_grid(scale, axes)]
    for place, line in enumerate(series):
        if not line.points:
            continue
        if line.band:
            upper = [
                scale.at(x, high) for (x, _), (_, high) in zip(line.points, line.band, strict=True)
            ]
            lower = [
                scale.at(x, low) for (x, _), (low, _) in zip(line.points, line.band, strict=True)
            ]
            parts.append(
                f'<polygon class="band s{place}" points="{_points(upper + lower[::-1])}"/>'
            )
        path = _points([scale.at(x, y) for x, y in line.points])
        parts.append(f'<polyline class="line s{place}" points="{path}"/>')
        if len(line.points) == 1:
            x, y = scale.at(*line.points[0])
            parts.append(f'<circle class="dot s{place}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return _svg(title, axes, parts)


def bar_chart(
    title: str, axes: Axes, labels: Sequence[str], series: Sequence[tuple[str, Sequence[float]]]
) -> str:
    """Draw groups of bars, one group a label, one bar a series."""
    highest = max((value for _, values in series for value in values), default=0)
    scale = _Scale(0, len(labels), axes.most or _nice(highest), logarithmic=False)
    parts = [_grid(scale, axes, ticks=False)]
    group = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    bar = 0.8 * group / max(1, len(series))
    for at, label in enumerate(labels):
        middle = LEFT + (at + 0.5) * group
        parts.append(
            f'<text class="tick" x="{middle:.1f}" y="{HEIGHT - BOTTOM + 16}" '
            f'text-anchor="middle">{escape(label)}</text>'
        )
        for place, (name, values) in enumerate(series):
            x = LEFT + at * group + 0.1 * group + place * bar
            y = scale.at(0, values[at])[1]
            parts.append(
                f'<rect class="bar s{place}" x="{x:.1f}" y="{y:.1f}" width="{0.9 * bar:.1f}" '
                f'height="{max(0.0, HEIGHT - BOTTOM - y):.1f}"><title>{escape(name)}, '
                f"{escape(label)}: {values[at]:.1f} %</title></rect>"
            )
    return _svg(title, axes, parts)


@dataclass(frozen=True)
class _Scale:
    """The coordinates of points in the picture."""

    first: float
    last: float
    top: float
    logarithmic: bool

    def at(self, x: float, y: float) -> tuple[float, float]:
        one, other, value = self.first, self.last, x
        if self.logarithmic:
            one, other, value = math.log(one), math.log(other), math.log(x)
        share = (value - one) / (other - one) if other > one else 0.5
        height = HEIGHT - TOP - BOTTOM
        return (
            LEFT + share * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - height * (y / self.top if self.top else 0.0),
        )

    def ticks(self) -> list[float]:
        """Return round values of x."""
        if self.logarithmic:
            steps = [base * 10**power for power in range(6) for base in (1, 2, 5)]
            return [step for step in steps if self.first <= step <= self.last]
        step = max(1, round(_nice((self.last - self.first) / 6)))
        start = math.ceil(self.first / step) * step
        return [start + step * i for i in range(int((self.last - start) / step) + 1)]


def _grid(scale: _Scale, axes: Axes, *, ticks: bool = True) -> str:
    parts = []
    for share in range(5):
        value = scale.top * share / 4
        y = scale.at(scale.first, value)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{value:.3g}</text>"
        )
    for tick in scale.ticks() if ticks else ():
        x = scale.at(tick, 0)[0]
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" '
            f'text-anchor="middle">{tick:g}</text>'
        )
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(
        f'<text class="tick" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(axes.x)}</text>"
    )
    return "".join(parts)


def _svg(title: str, axes: Axes, parts: Sequence[str]) -> str:
    return (
        f"<figure><figcaption>{escape(title)} <span class=dim>({escape(axes.y)})</span>"
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _nice(value: float) -> float:
    """Return the next round number at or above a value."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        step * power for step in (1, 2, 2.4, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999
    )
