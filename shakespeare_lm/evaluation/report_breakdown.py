"""Where the loss is -> a section of the report.

Enters: evaluations with a breakdown. Leaves: HTML: a chart, tables, and coloured passages.
"""

import math
from collections.abc import Sequence
from html import escape

from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.breakdown import POSITION, Group, Passage
from shakespeare_lm.evaluation.evaluation import Evaluation
from shakespeare_lm.evaluation.html_table import html_table
from shakespeare_lm.evaluation.line_chart import Line, axis, line_chart

# From this loss on (a probability of 0.55 %), the darkest colour on which text is readable.
_MAX_NATS, _MAX_OPACITY = 5.2, 0.65


def loss_by_position(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    """Return a chart with one line per model, beside the best n-gram model."""
    lines = [
        Line(
            one.name,
            [
                (float(group.name.split()[-1]), group.nats)
                for group in one.breakdown.groups[POSITION]
            ],
        )
        for one in evaluations
        if one.breakdown
    ]
    seen = [x for line in lines for x, _ in line.points]
    ngrams = [one for one in baselines if one.name.endswith("-gram")]
    if ngrams:
        best = min(ngrams, key=lambda one: one.nats)
        ends = [(min(seen), best.nats), (max(seen), best.nats)]
        lines.append(Line(f"{best.name}, overall", ends))
    losses = [y for line in lines for _, y in line.points]
    chart = line_chart(
        "Loss by position in the context",
        axis("characters that the model has seen", seen, doubling=True),
        axis("nats per character", losses),
        lines,
    )
    return chart


def breakdown_section(one: Evaluation) -> str:
    """Return the tables of a model, and its most surprising passages, coloured."""
    assert one.breakdown is not None
    tables = [
        f"<div><h3>By {escape(kind)}</h3>{_groups(groups)}</div>"
        for kind, groups in one.breakdown.groups.items()
    ]
    passages = "".join(_passage(passage, one) for passage in one.breakdown.passages)
    return (
        f'<h3 class="quiet">{escape(one.name)}</h3>'
        f'<div class="columns">{"".join(tables)}</div>'
        f"<h3>The most surprising passages</h3><p>{_colour_legend()}</p>"
        '<div class="scroll"><table><tr><th class="number">nats<th class="number">at'
        f"<th>text</tr>{passages}</table></div>"
    )


def _groups(groups: Sequence[Group]) -> str:
    rows = [(f"{one.nats:.3f}", f"{one.share:.1%}", one.name) for one in groups]
    most = max(one.nats for one in groups)
    bars = [one.nats / most for one in groups]
    return html_table(("nats", "of the loss", "characters"), rows, numbers=2, bars=bars)


def _passage(passage: Passage, one: Evaluation) -> str:
    losses = one.losses[passage.start : passage.start + len(passage.text)]
    text = "".join(
        _coloured(character, nats) for character, nats in zip(passage.text, losses, strict=True)
    )
    return (
        f'<tr><td class="number">{passage.nats:.3f}<td class="number">{passage.start:,}'
        f'<td class="text">{text}</tr>'
    )


def _coloured(character: str, nats: float) -> str:
    shown = escape(character.replace("\n", "↵"))
    if math.isnan(nats):  # nothing predicts the first character
        return shown
    opacity = _MAX_OPACITY * min(1.0, nats / _MAX_NATS)
    return (
        f'<b style="background:rgba(var(--surprise),{opacity:.2f})" '
        f'title="{nats:.2f} nats, probability {math.exp(-nats):.2%}">{shown}</b>'
    )


def _colour_legend() -> str:
    steps = "".join(
        f'<b style="background:rgba(var(--surprise),{_MAX_OPACITY * nats / _MAX_NATS:.2f})">'
        f"&nbsp;{math.exp(-nats):.2g}&nbsp;</b>"
        for nats in (0.0, 0.7, 1.6, 3.0, _MAX_NATS)
    )
    return f'The probability of each character: <span class="text">{steps}</span>'
