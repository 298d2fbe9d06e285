"""Charts as SVG that follow the page's colours: lines by epoch or by k, bars by rank.

A series is a name and its values; the page's style sheet colours series s by the class `s<s>`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 46, 548, 12, 240
"""The edges of the drawing; y counts from the top."""


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
    xs = [x for line in series for x, _ in line.points]
    if not xs:
        return ""
    first, last = min(xs), max(xs)
    highest = max(y for line in series for _, y in (*line.points, *line.band))
    top = axes.most or _nice(highest)
    scale = math.log if axes.logarithmic else float

    def at(x: float) -> float:
        share = (scale(x) - scale(first)) / (scale(last) - scale(first)) if last > first else 0.5
        return LEFT + share * (RIGHT - LEFT)

    def path(points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{at(x):.1f},{_height(y, top):.1f}" for x, y in points)

    parts = []
    for place, line in enumerate(series):
        if line.band:
            spans = [(x, *span) for (x, _), span in zip(line.points, line.band, strict=True)]
            upper, lower = [(x, high) for x, _, high in spans], [(x, low) for x, low, _ in spans]
            outline = path(upper + lower[::-1])
            parts.append(f'<polygon class="band s{place}" points="{outline}"/>')
        parts.append(f'<polyline class="line s{place}" points="{path(line.points)}"/>')
        if len(line.points) == 1:
            x, y = line.points[0]
            center = f'cx="{at(x):.1f}" cy="{_height(y, top):.1f}"'
            parts.append(f'<circle class="dot s{place}" {center} r="3"/>')
    ticks = [(at(x), f"{x:g}") for x in _ticks(first, last, logarithmic=axes.logarithmic)]
    return _chart(title, axes, top, ticks, parts)


def bar_chart(
    title: str, axes: Axes, labels: Sequence[str], series: Sequence[tuple[str, Sequence[float]]]
) -> str:
    """Draw groups of bars, one group a label, one bar a series."""
    top = axes.most or _nice(max(value for _, values in series for value in values))
    group = (RIGHT - LEFT) / len(labels)
    bar = 0.8 * group / len(series)
    parts = []
    for place, (name, values) in enumerate(series):
        for at, (label, value) in enumerate(zip(labels, values, strict=True)):
            x, y = LEFT + (at + 0.1) * group + place * bar, _height(value, top)
            parts.append(
                f'<rect class="bar s{place}" x="{x:.1f}" y="{y:.1f}" width="{0.9 * bar:.1f}" '
                f'height="{max(0.0, BOTTOM - y):.1f}"><title>{escape(name)}, {escape(label)}: '
                f"{value:.1f} %</title></rect>"
            )
    ticks = [(LEFT + (at + 0.5) * group, label) for at, label in enumerate(labels)]
    return _chart(title, axes, top, ticks, parts)


def _chart(
    title: str,
    axes: Axes,
    top: float,
    ticks: Iterable[tuple[float, str]],
    parts: Iterable[str],
) -> str:
    """Put the parts into a picture with five lines of y and the ticks (place, label) of x."""
    grid = []
    for value in (top * share / 4 for share in range(5)):
        y = _height(value, top)
        grid.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        grid.append(_label(LEFT - 6, y + 4, f"{value:.3g}", "end"))
    grid += [_label(x, BOTTOM + 16, label) for x, label in ticks]
    grid.append(_label((LEFT + RIGHT) / 2, HEIGHT - 6, axes.x))
    return (
        f'<figure><figcaption>{escape(title)} <span class="dim">({escape(axes.y)})</span>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join([*grid, *parts])}</svg></figure>'
    )


def _label(x: float, y: float, text: str, anchor: str = "middle") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="tick" {place}>{escape(text)}</text>'


def _height(y: float, top: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * y / top


def _ticks(first: float, last: float, *, logarithmic: bool) -> list[float]:
    """Return round values of x."""
    if logarithmic:
        steps = [base * 10**power for power in range(6) for base in (1, 2, 5)]
        return [step for step in steps if first <= step <= last]
    step = max(1, round(_nice((last - first) / 6)))
    start = math.ceil(first / step) * step
    return [*range(start, int(last) + 1, step)]


def _nice(value: float) -> float:
    """Return the next round number at or above a value."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        step * power for step in (1, 2, 2.4, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999
    )
