"""Evaluations and baselines -> one HTML page that explains them.

Enters: what `evaluate` and the baselines gave. Leaves: a page for any browser, phone or printer. It
has no script, loads nothing, and is the same each time.
"""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from shakespeare_lm.evaluation.baselines import Baseline, verdict
from shakespeare_lm.evaluation.evaluation import Evaluation
from shakespeare_lm.evaluation.html_table import html_bar
from shakespeare_lm.evaluation.ranking import Row, notes, ranked
from shakespeare_lm.evaluation.report_breakdown import breakdown_section, loss_by_position
from shakespeare_lm.evaluation.report_copying import copied_chart, copying_section


def report(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    """Return the page.

    Args:
        evaluations: at least one; with breakdown and copying if these are to be shown.
        baselines: on the same part of the same corpus.
    """
    parts = [_heading(evaluations, baselines), _ranking(ranked(evaluations, baselines))]
    broken_down = [one for one in evaluations if one.breakdown]
    if broken_down:
        parts += ["<h2>Where the loss is</h2>", loss_by_position(broken_down, baselines)]
        parts += [breakdown_section(one) for one in broken_down]
    copied = {one.name: one.copying for one in evaluations if one.copying}
    if copied:
        parts += ["<h2>Does it copy?</h2>", copied_chart(copied)]
        parts += [copying_section(name, one) for name, one in copied.items()]
    style = files("shakespeare_lm.evaluation").joinpath("report.css").read_text("utf-8")
    return _PAGE.format(style=style, body="\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>How good is it?</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _heading(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    first = evaluations[0]
    lines = [
        "<h1>How good is it?</h1>",
        f"<p>{first.characters:,} characters of the {first.part} part, each predicted from the "
        "characters before it.</p>",
    ]
    for one in evaluations:
        lines.append(f"<p>{escape(one.name)}<br>")
        lines.append(f'<span class="verdict">{escape(verdict(one.block_nats, baselines))}</span>')
        lines += [f'<br><span class="quiet">{escape(note)}</span>' for note in notes(one)]
        lines.append("</p>")
    return "\n".join(lines)


def _ranking(rows: Sequence[Row]) -> str:
    lines = "".join(_ranking_row(row, row.nats / rows[-1].nats) for row in rows)
    return (
        "<h2>Against what</h2><p>The mean loss per character: how much the text surprises a model. "
        "Lower is better; the models in colour are those of this report. N-gram models only count "
        "how often characters follow each other in the training part.</p>"
        '<div class="scroll"><table><tr><th class="number">nats<th class="number extra">bits'
        f'<th class="number extra">perplexity<th><th class="name">model</tr>{lines}</table></div>'
    )


def _ranking_row(row: Row, length: float) -> str:
    style = ' class="evaluated"' if row.evaluated else ""
    return (
        f'<tr{style}><td class="number">{row.nats:.4f}<td class="number extra">{row.bits:.4f}'
        f'<td class="number extra">{row.perplexity:.3f}{html_bar(length)}'
        f'<td class="name">{escape(row.name)}<br><span class="quiet">{escape(row.note)}</span></tr>'
    )
