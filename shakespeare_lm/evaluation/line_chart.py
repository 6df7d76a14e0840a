"""Curves -> a line chart as inline SVG, which needs no script, and takes its colours from the page.

Enters: named lines of points. Leaves: an HTML figure with axes, labels and a legend. The page's
style sheet gives each line its colour by the classes `line-1`, `line-2` and so on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# In units of the picture, which the page scales: small, so that text is readable on a phone.
_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 8, 40
_MAX_TICKS = 6
LINE_STYLES = 6


@dataclass(frozen=True)
class Line:
    """A curve.

    Args:
        name: for the legend.
        points: of x and y, in the order of x.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """One of the two axes.

    Args:
        label: what it shows, with its unit.
        low: its first value.
        high: its last value, more than the first.
        doubling: whether each step of it doubles the value (base-2 logarithm).
    """

    label: str
    low: float
    high: float
    doubling: bool = False

    def place(self, value: float) -> float:
        """Return where a value is, from 0 to 1."""
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
    """Return an axis that holds all values, with round ends unless it is doubling."""
    low, high = min(values), max(values)
    if doubling:
        return Axis(label, low, high if high > low else 2 * low, True)
    step = _round_step((high - low or 1.0) / _MAX_TICKS)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return Axis(label, low, high if high > low else low + step)


def _round_step(least: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not less than a number."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """Return the chart as an HTML figure."""
    description = f"{title}: {y.label} by {x.label}; " + ", ".join(line.name for line in lines)
    drawn = [
        _polyline(number, [(_across(x, a), _down(y, b)) for a, b in line.points])
        for number, line in enumerate(lines)
    ]
    content = "".join([*_grid(x, y), *drawn])
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">'
        f"{content}</svg>{_legend(lines)}</figure>"
    )


def _across(x: Axis, value: float) -> float:
    return _LEFT + x.place(value) * (_WIDTH - _LEFT - _RIGHT)


def _down(y: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - y.place(value) * (_HEIGHT - _TOP - _BOTTOM)


def _polyline(number: int, points: Sequence[tuple[float, float]]) -> str:
    places = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
    return f'<polyline class="line {_style(number)}" points="{places}"/>'


def _style(number: int) -> str:
    return f"line-{number % LINE_STYLES + 1}"


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


def _legend(lines: Sequence[Line]) -> str:
    items = [
        f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><line class="line {_style(number)}" '
        f'x1="0" x2="28" y1="4" y2="4"/></svg>{escape(line.name)}</li>'
        for number, line in enumerate(lines)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'
