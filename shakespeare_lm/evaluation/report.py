"""Evaluations and baselines -> one HTML page that explains them, for any browser, phone or printer.
It has no script, loads nothing, and is the same each time.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from shakespeare_lm.evaluation.baselines import Baseline, verdict
from shakespeare_lm.evaluation.breakdown import POSITION, Group, Passage
from shakespeare_lm.evaluation.copying import Copying
from shakespeare_lm.evaluation.evaluation import Evaluation, Row, notes, ranked
from shakespeare_lm.evaluation.line_chart import Axis, Line, axis, line_chart

# From this loss on (a probability of 0.55 %), the darkest colour on which text is readable.
_MAX_NATS, _MAX_OPACITY = 5.2, 0.65
_SAMPLES_SHOWN, _SAMPLE_CHARACTERS = 3, 400

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


def report(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    """Return the page of at least one evaluation, with its breakdown and copying if it has them,
    next to baselines on the same part of the same corpus.
    """
    parts = [_heading(evaluations, baselines), _ranking(ranked(evaluations, baselines))]
    broken_down = [evaluation for evaluation in evaluations if evaluation.breakdown]
    if broken_down:
        parts += ["<h2>Where the loss is</h2>", loss_by_position(broken_down, baselines)]
        parts += [breakdown_section(evaluation) for evaluation in broken_down]
    copied = {
        evaluation.name: evaluation.copying for evaluation in evaluations if evaluation.copying
    }
    if copied:
        parts += ["<h2>Does it copy?</h2>", copied_chart(copied)]
        parts += [copying_section(name, copying) for name, copying in copied.items()]
    style = files("shakespeare_lm.evaluation").joinpath("report.css").read_text("utf-8")
    return _PAGE.format(style=style, body="\n".join(parts))


def _heading(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    first = evaluations[0]
    lines = [
        "<h1>How good is it?</h1>",
        f"<p>{first.characters:,} characters of the {first.part} part, each predicted from the "
        "characters before it.</p>",
    ]
    for evaluation in evaluations:
        placed = escape(verdict(evaluation.block_nats, baselines))
        lines += [f"<p>{escape(evaluation.name)}<br>", f'<span class="verdict">{placed}</span>']
        lines += [f'<br><span class="quiet">{escape(note)}</span>' for note in notes(evaluation)]
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
        f'<td class="number extra">{row.perplexity:.3f}{_bar(length)}'
        f'<td class="name">{escape(row.name)}<br><span class="quiet">{escape(row.note)}</span></tr>'
    )


# --- where the loss is ---


def loss_by_position(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    """Return a chart with one line per model, next to the best n-gram model."""
    lines = []
    for evaluation in evaluations:
        if evaluation.breakdown:
            groups = evaluation.breakdown.groups[POSITION]
            points = [(float(group.name.split()[-1]), group.nats) for group in groups]
            lines.append(Line(evaluation.name, points))
    seen = [x for line in lines for x, _ in line.points]
    ngrams = [baseline for baseline in baselines if baseline.name.endswith("-gram")]
    if ngrams:
        best = min(ngrams, key=lambda baseline: baseline.nats)
        ends = [(min(seen), best.nats), (max(seen), best.nats)]
        lines.append(Line(f"{best.name}, overall", ends))
    return line_chart(
        "Loss by position in the context",
        axis("characters that the model has seen", seen, doubling=True),
        axis("nats per character", [y for line in lines for _, y in line.points]),
        lines,
    )


def breakdown_section(evaluation: Evaluation) -> str:
    """Return the tables of a model, and its most surprising passages, coloured."""
    assert evaluation.breakdown is not None
    tables = [
        f"<div><h3>By {escape(kind)}</h3>{_groups_table(groups)}</div>"
        for kind, groups in evaluation.breakdown.groups.items()
    ]
    passages = "".join(_passage(passage, evaluation) for passage in evaluation.breakdown.passages)
    return (
        f'<h3 class="quiet">{escape(evaluation.name)}</h3>'
        f'<div class="columns">{"".join(tables)}</div>'
        f"<h3>The most surprising passages</h3><p>{_colour_legend()}</p>"
        '<div class="scroll"><table><tr><th class="number">nats<th class="number">at'
        f"<th>text</tr>{passages}</table></div>"
    )


def _groups_table(groups: Sequence[Group]) -> str:
    rows = [(f"{group.nats:.3f}", f"{group.share:.1%}", group.name) for group in groups]
    most = max(group.nats for group in groups)
    bars = [group.nats / most for group in groups]
    return html_table(("nats", "of the loss", "characters"), rows, numbers=2, bars=bars)


def _passage(passage: Passage, evaluation: Evaluation) -> str:
    losses = evaluation.losses[passage.start : passage.start + len(passage.text)]
    return (
        f'<tr><td class="number">{passage.nats:.3f}<td class="number">{passage.start:,}'
        f'<td class="text">{"".join(map(_coloured, passage.text, losses))}</tr>'
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


# --- whether it copies ---


def copied_chart(copied: dict[str, Copying]) -> str:
    """Return a chart with one line per model, by name, and one for the held-out text."""
    texts = {f"{name}, samples": copying.sampled for name, copying in copied.items()}
    texts["held-out text"] = next(iter(copied.values())).held_out
    shares = [share for text in texts.values() for share in enumerate(text.copied, start=1)]
    longest = max((length for length, share in shares if share), default=1)
    lines = [
        Line(name, list(enumerate(text.copied[:longest], start=1))) for name, text in texts.items()
    ]
    chart = line_chart(
        "Substrings that stand in the training part",
        Axis("length of the substrings in characters", 1, max(2, longest)),
        Axis("share", 0, 1),
        lines,
    )
    return (
        "<p>Text sampled from the model, looked up in its training part. "
        "Held-out text is the yardstick: a person wrote it, so what it shares with the training "
        "part is the language. A model whose curve lies far above it copies "
        "(McCoy et al. 2023).</p>" + chart
    )


def copying_section(name: str, copying: Copying) -> str:
    """Return the figures of a model, its longest copies, and samples."""
    head = ("characters", "known words", "distinct words", "pairs", "triples", "")
    rows, spans = [], []
    for label, text in (("samples", copying.sampled), ("held-out text", copying.held_out)):
        shares = map(_percent, (text.known_words, *text.distinct))
        rows.append((f"{text.characters:,}", *shares, label))
        spans.append(
            f"<p>Longest copy in the {label}: {len(text.longest.text)} characters, from line "
            f"{text.longest.line:,} of the training part:</p>{_quoted(text.longest.text)}"
        )
    samples = [_quoted(text[:_SAMPLE_CHARACTERS]) for text in copying.samples[:_SAMPLES_SHOWN]]
    return (
        f'<h3 class="quiet">{escape(name)}</h3>'
        f"{html_table(head, rows, numbers=5)}{_extraction(copying)}"
        f"{''.join(spans)}<h3>Samples</h3>{''.join(samples)}"
    )


def _quoted(text: str) -> str:
    return f'<p class="text sample">{escape(text)}</p>'


def _extraction(copying: Copying) -> str:
    head = ("training part", "held-out", "greedy completion is right for")
    rows = [
        (_percent(rate.train), _percent(rate.held_out), f"{rate.suffix} characters")
        for rate in copying.extraction
    ]
    return (
        f"<p>After {copying.prefix} characters of the text, how often greedy completion repeats "
        f"what follows in it (Carlini et al. 2022):</p>{html_table(head, rows, numbers=2)}"
    )


def _percent(share: float | None) -> str:
    return "too short" if share is None else f"{share:.1%}"


def html_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: int,
    bars: Sequence[float] | None = None,
) -> str:
    """Return a table, which scrolls on its own if it is wider than the screen. The first `numbers`
    columns hold numbers; `bars` adds a column of bars of these lengths, up to 1.
    """
    kinds = ["number" if i < numbers else "name" for i in range(len(head))]

    def cells(tag: str, texts: Sequence[str]) -> str:
        pairs = zip(kinds, texts, strict=True)
        return "".join(f'<{tag} class="{kind}">{escape(text)}' for kind, text in pairs)

    lines = [f"<tr>{cells('th', head)}{'<th>' if bars else ''}</tr>"]
    for number, row in enumerate(rows):
        lines.append(f"<tr>{cells('td', row)}{_bar(bars[number]) if bars else ''}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _bar(length: float) -> str:
    return f'<td class="bar"><span style="width:{length:.1%}"></span>'
