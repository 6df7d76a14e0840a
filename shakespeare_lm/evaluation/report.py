"""Evaluations and baselines -> one HTML page that explains them, for any browser, phone or printer.
It has no script, loads nothing, and is the same each time. `report.html` is its template.
"""

import math
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader

from shakespeare_lm.errors import printable
from shakespeare_lm.evaluation.adaptation import RULES
from shakespeare_lm.evaluation.baselines import Baseline, best_ngram, verdict
from shakespeare_lm.evaluation.breakdown import POSITION
from shakespeare_lm.evaluation.evaluation import Evaluation, notes, ranked
from shakespeare_lm.evaluation.line_chart import Axis, Line, axis, line_chart

# From this loss on (a probability of 0.55 %), the darkest colour on which text is readable.
_MAX_NATS, _MAX_OPACITY = 5.2, 0.65
_HIGHEST_SHOWN = 1.3  # of the lowest loss: 1.4 and 1.5 are a world apart
_LEGEND_NATS = (0.0, 0.7, 1.6, 3.0, _MAX_NATS)


def report(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    """Return the page of at least one evaluation, with its breakdown and copying if it has them,
    next to baselines on the same part of the same corpus.
    """
    rows = ranked(evaluations, baselines)
    environment = Environment(
        loader=PackageLoader("shakespeare_lm", "evaluation"), autoescape=True, finalize=_shown,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["percent"] = _percent
    return environment.get_template("report.html").render(
        evaluations=evaluations,
        baselines=baselines,
        rows=rows,
        scale=_scale([row.nats for row in rows]),
        verdict=verdict,
        notes=notes,
        loss_chart=loss_chart(evaluations, baselines),
        copied_chart=copied_chart(evaluations),
        legend=_LEGEND_NATS,
        rules=RULES,
        exp=math.exp,
        opacity=lambda nats: _MAX_OPACITY * min(1.0, nats / _MAX_NATS),
        probability=lambda nats: f"{math.exp(-nats):.2%}",
    )


def _shown(value: object) -> object:
    """Return an expression's value with escapes for control characters in texts."""
    return printable(value) if isinstance(value, str) else value


def _scale(nats: Sequence[float]) -> Axis:
    """Return an axis on which small differences can be seen: it ends near the lowest ones."""
    return axis("", [loss for loss in nats if loss <= _HIGHEST_SHOWN * nats[0]])


def _percent(fraction: float | None) -> str:
    return "too short" if fraction is None else f"{fraction:.1%}"


def loss_chart(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    """Return a chart of the loss by position in the context, with one line per model and one for
    the best n-gram model; nothing without a breakdown.
    """
    lines = []
    for evaluation in evaluations:
        if evaluation.breakdown:
            groups = evaluation.breakdown.groups[POSITION]
            points = [(float(group.name.split()[-1]), group.nats) for group in groups]
            lines.append(Line(evaluation.name, points))
    if not lines:
        return ""
    seen = [x for line in lines for x, _ in line.points]
    if best := best_ngram(baselines):
        ends = [(min(seen), best.nats), (max(seen), best.nats)]
        lines.append(Line(f"{best.name}, overall", ends))
    return line_chart(
        "Loss by position in the context",
        axis("characters that the model has seen", seen, doubling=True),
        axis("nats per character", [y for line in lines for _, y in line.points]),
        lines,
    )


def copied_chart(evaluations: Sequence[Evaluation]) -> str:
    """Return a chart of the fraction copied, with one line per model that was sampled, and one for
    the held-out text; nothing without samples.
    """
    copied = [(one.name, one.copying) for one in evaluations if one.copying]
    if not copied:
        return ""
    texts = [(f"{name}, samples", copying.sampled) for name, copying in copied]
    texts.append(("held-out text", copied[0][1].held_out))
    longest = max(1, *(sum(fraction > 0 for fraction in text.copied) for _, text in texts))
    return line_chart(
        "Substrings that stand in the training part",
        Axis("length of the substrings in characters", 1, max(2, longest)),
        Axis("share", 0, 1),
        [Line(name, list(enumerate(text.copied[:longest], start=1))) for name, text in texts],
    )
