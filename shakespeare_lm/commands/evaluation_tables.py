"""What `evaluate` prints: tables for a terminal, or one JSON object for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from shakespeare_lm.evaluation.baselines import Baseline, verdict
from shakespeare_lm.evaluation.breakdown import Group, Passage
from shakespeare_lm.evaluation.copying import Copying
from shakespeare_lm.evaluation.evaluation import Evaluation, notes, ranked

_LENGTHS_SHOWN = (4, 6, 8, 10, 15, 20, 30, 50, 100)


def print_evaluations(
    console: Console, evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]
) -> None:
    """Print everything, the ranking first."""
    first = evaluations[0]
    console.print(f"{first.characters:,} characters of the {first.part} part, nats per character\n")
    console.print(ranking_table(evaluations, baselines))
    for evaluation in evaluations:
        console.print(f"\n{evaluation.name}")
        console.print(f"  {verdict(evaluation.block_nats, baselines)}")
        for line in notes(evaluation):
            console.print(f"  {line}")
    for evaluation in evaluations:
        if evaluation.breakdown:
            console.print(f"\nWhere the loss of {evaluation.name} is")
            for kind, groups in evaluation.breakdown.groups.items():
                console.print(groups_table(kind, groups))
            console.print("\nThe most surprising passages")
            console.print(passages_table(evaluation.breakdown.passages))
        if evaluation.copying:
            print_copying(console, evaluation.name, evaluation.copying)


def _table(first: str | Column, *figures: str) -> Table:
    columns = (Column(name, justify="right") for name in figures)
    return Table(first, *columns, box=None, pad_edge=False)


def ranking_table(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> Table:
    """Return all models in one table, the best first."""
    figures = (Column(n, justify="right", no_wrap=True) for n in ("nats", "bits", "perplexity"))
    texts = (Column(name, overflow="fold") for name in ("model", ""))
    table = Table(*figures, *texts, box=None, pad_edge=False)
    for row in ranked(evaluations, baselines):
        losses = f"{row.nats:.4f}", f"{row.bits:.4f}", f"{row.perplexity:.3f}"
        table.add_row(*losses, row.name, row.note, style="bold" if row.evaluated else "")
    return table


def groups_table(kind: str, groups: Sequence[Group]) -> Table:
    """Return one line per group."""
    table = _table(Column(kind, min_width=24), "characters", "nats", "of the loss")
    for group in groups:
        figures = f"{group.characters:,}", f"{group.nats:.4f}", f"{group.share:.1%}"
        table.add_row(group.name, *figures)
    return table


def passages_table(passages: Sequence[Passage]) -> Table:
    """Return one line per passage."""
    table = Table("nats", "at", Column("", overflow="fold"), box=None, pad_edge=False)
    for passage in passages:
        # As Python writes it, so that line breaks do not end the row.
        table.add_row(f"{passage.nats:.3f}", f"{passage.start:,}", Text(repr(passage.text)))
    return table


def print_copying(console: Console, name: str, copying: Copying) -> None:
    """Print how much of the samples, and of the held-out text, stands in the training part."""
    console.print(f"\nDoes {name} copy? Substrings that stand in the training part")
    console.print(copied_table(copying))
    for label, text in (("samples", copying.sampled), ("held-out text", copying.held_out)):
        copied = text.longest
        length, line = len(copied.text), f"line {copied.line:,} of the training part"
        shown = f"longest in the {label}: {length} characters, from {line}: {copied.text!r}"
        console.print(Text(shown))
    console.print(f"\nGreedy completion after {copying.prefix} characters repeats the text")
    table = Table("characters", "training part", "held-out text", box=None, pad_edge=False)
    for rate in copying.extraction:
        table.add_row(str(rate.suffix), _percent(rate.train), _percent(rate.held_out))
    console.print(table)


def copied_table(copying: Copying) -> Table:
    """Return one line per length of substrings, then those about words."""
    table = _table("length", "samples", "held-out text")
    texts = copying.sampled, copying.held_out
    for length in _LENGTHS_SHOWN:
        if length <= min(len(text.copied) for text in texts):
            table.add_row(str(length), *(_percent(text.copied[length - 1]) for text in texts))
    table.add_row("known words", *(_percent(text.known_words) for text in texts))
    for count, name in enumerate(("words", "pairs of words", "three words in a row")):
        table.add_row(f"different {name}", *(_percent(text.distinct[count]) for text in texts))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def as_json(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    """Return everything but the losses of single characters as one JSON object."""
    content = {
        "evaluations": [{**asdict(model), "agrees": model.agrees} for model in evaluations],
        "baselines": [asdict(baseline) for baseline in baselines],
    }
    for evaluation in content["evaluations"]:
        del evaluation["losses"]
    return json.dumps(content, indent=2, ensure_ascii=False)
