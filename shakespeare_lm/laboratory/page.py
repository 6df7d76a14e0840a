"""A comparison -> one HTML page in the style of the report: no script, and it loads nothing.
`page.html` is its template.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from shakespeare_lm.evaluation.line_chart import Axis, Line, axis, line_chart
from shakespeare_lm.laboratory.comparison import Comparison, Row, counted, origin, recorded
from shakespeare_lm.laboratory.result import Point, Result
from shakespeare_lm.laboratory.tables import environment

# Curves begin where they are this many times the lowest loss, so that small differences are seen.
_MAX_RATIO = 1.25
_Mean = tuple[Point, float]  # of one validation in all runs: means, deviation of val_loss


def page(comparison: Comparison, scaling_chart: str = "") -> str:
    """Return the page; `scaling_chart` is a figure of runs of several sizes."""
    origins = recorded([origin(run) for run in comparison.results])
    commands = {run.variant: run.provenance.get("command") for run in comparison.results}
    template = environment(autoescape=True).get_template("laboratory/page.html")
    return template.render(
        **vars(comparison),
        scale=_scale(comparison.rows),
        charts=[*_charts(comparison), scaling_chart],
        origins={key: counted(values) for key, values in origins.items()},
        commands={name: command for name, command in commands.items() if command},
    )


def _scale(rows: Sequence[Row]) -> Axis:
    """Return an axis for all differences, their intervals and zero."""
    found = [row.difference for row in rows if row.difference]
    return axis("", [0.0, *(end for one in found for end in one.interval or (one.mean,))])


def _charts(comparison: Comparison) -> list[str]:
    """Return charts of the mean loss by step and by time; nothing without curves."""
    curves = {
        row.name: mean_curve([run for run in comparison.results if run.variant == row.name])
        for row in comparison.rows
    }
    losses = [point.val_loss for curve in curves.values() for point, _ in curve]
    if not losses:
        return []
    highest = _MAX_RATIO * min(losses)
    late = {name: [p for p in curve if p[0].val_loss <= highest] for name, curve in curves.items()}
    late = {name: curve for name, curve in late.items() if curve}
    return [_chart("steps", 0, late), _chart("seconds of training", 1, late)]


def _chart(label: str, column: int, curves: Mapping[str, Sequence[_Mean]]) -> str:
    """Return the chart of losses by a column of `Point`."""
    every = [one for curve in curves.values() for one in curve]
    reached = [point[column] for point, _ in every]
    x = Axis(label, min(reached), max(*reached, min(reached) + 1))
    y = axis("", [point.val_loss + sign * half for point, half in every for sign in (-1, 1)])
    lines = [
        Line(name, [(p[column], p.val_loss) for p, _ in curve], band=[half for _, half in curve])
        for name, curve in curves.items()
    ]
    return line_chart(f"Nats per character by {label}", x, y, lines)


def mean_curve(runs: Sequence[Result]) -> list[_Mean]:
    """Return the mean of the runs at each step where all that have a curve were validated, with the
    sample standard deviation of their losses (0 for one run).
    """
    at: defaultdict[int, list[Point]] = defaultdict(list)
    for point in (point for run in runs for point in run.curve):
        at[point.step].append(point)
    complete = sum(bool(run.curve) for run in runs)
    return [_mean(at[step]) for step in sorted(at) if len(at[step]) == complete]


def _mean(points: Sequence[Point]) -> _Mean:
    seconds = statistics.fmean(point.seconds for point in points)
    losses = [point.val_loss for point in points]
    deviation = statistics.stdev(losses) if len(losses) > 1 else 0.0
    return Point(points[0].step, seconds, statistics.fmean(losses)), deviation
