"""Curves -> a line chart as inline SVG, which needs no script. The page's style sheet gives each
line its colour by the classes `line-1`, `line-2` and so on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# In units of the picture, which the page scales: small, so that text is readable on a phone.
_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 8, 40
_MAX_TICKS = 6
LINE_STYLES = 8


@dataclass(frozen=True)
class Line:
    """A curve."""

    name: str  # for the legend
    points: Sequence[tuple[float, float]]  # x and y, in the order of x
    dots: bool = False  # without lines between them; a single point is always a dot
    band: Sequence[float] = ()  # how far a coloured area reaches above and below each point
    thin: Sequence[tuple[float, float]] = ()  # a second curve in the same style, such as a fit


@dataclass(frozen=True)
class Axis:
    """One of the two axes."""

    label: str  # what it shows, with its unit
    low: float
    high: float  # more than `low`
    doubling: bool = False  # base-2 logarithm

    def place(self, value: float) -> float:
        """Return the position of a value on the axis, from 0 to 1."""
        low, high = (self._scaled(end) for end in (self.low, self.high))
        return (self._scaled(value) - low) / (high - low)

    def _scaled(self, value: float) -> float:
        return math.log2(value) if self.doubling else value

    def ticks(self) -> list[float]:
        """Return round values to mark."""
        if self.doubling:
            steps = range(math.ceil(math.log2(self.low)), math.floor(math.log2(self.high)) + 1)
            every = 1 + len(steps) // (2 * _MAX_TICKS)
            return [2.0**step for step in steps[::every]]
        step = _round_step((self.high - self.low) / _MAX_TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def axis(label: str, values: Sequence[float], doubling: bool = False) -> Axis:
    """Return an axis for all values, with round ends unless it is doubling."""
    low, high = min(values), max(values)
    if doubling:
        return Axis(label, low, high if high > low else 2 * low, True)
    step = _round_step((high - low or 1.0) / _MAX_TICKS)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return Axis(label, low, high if high > low else low + step)


def _round_step(least: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """Return the chart as an HTML figure."""
    description = f"{title}: {y.label} by {x.label}; " + ", ".join(line.name for line in lines)
    content, legend = _grid(x, y), []
    for number, line in enumerate(lines):
        points = [(_across(x, a), _down(y, b)) for a, b in line.points]
        if line.band:
            content.append(_band(x, y, line, number))
        if line.thin:
            thin = [(_across(x, a), _down(y, b)) for a, b in line.thin]
            content.append(f'<g class="thin">{_drawn(Line("", thin), number, thin)}</g>')
        content.append(_drawn(line, number, points))
        single = len(points) == 1
        key = _drawn(line, number, [(14, 4)] if line.dots or single else [(0, 4), (28, 4)])
        legend.append(f'<li><svg viewBox="0 0 28 8" aria-hidden="true">{key}</svg>')
        value = f": {line.points[0][1]:.4f}" if single else ""
        legend.append(f"{escape(line.name)}{value}</li>")
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">'
        f'{"".join(content)}</svg><ul class="legend">{"".join(legend)}</ul></figure>'
    )


def _drawn(line: Line, number: int, points: Sequence[tuple[float, float]]) -> str:
    style = f"line line-{number % LINE_STYLES + 1}"
    if line.dots or len(points) == 1:  # strokes without length have round ends
        dots = "".join(f"M{across:.1f},{down:.1f}h0" for across, down in points)
        return f'<path class="{style} dots" d="{dots}"/>'
    corners = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
    return f'<polyline class="{style}" points="{corners}"/>'


def _band(x: Axis, y: Axis, line: Line, number: int) -> str:
    reached = list(zip(line.points, line.band, strict=True))
    edge = [(a, b + half) for (a, b), half in reached]
    edge += [(a, b - half) for (a, b), half in reversed(reached)]
    corners = " ".join(f"{_across(x, a):.1f},{_down(y, b):.1f}" for a, b in edge)
    colour = f"var(--line-{number % LINE_STYLES + 1})"
    return f'<polygon class="band" style="fill:{colour}" points="{corners}"/>'


def _across(x: Axis, value: float) -> float:
    return _LEFT + x.place(value) * (_WIDTH - _LEFT - _RIGHT)


def _down(y: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - y.place(value) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(x: Axis, y: Axis) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in y.ticks():
        down = f"{_down(y, value):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{down}" dy=".35em">{value:g}</text>')
    for value in x.ticks():
        across = f"{_across(x, value):.1f}"
        parts.append(f'<text class="middle" x="{across}" y="{bottom + 16}">{value:g}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = f"{(_LEFT + right) / 2:.1f}"
    parts.append(
        f'<text class="middle" x="{middle}" y="{_HEIGHT - 6}">{escape(x.label)}</text>'
        f'<text class="middle" transform="translate(12 {(_TOP + bottom) / 2:.1f}) rotate(-90)">'
        f"{escape(y.label)}</text>"
    )
    return parts
