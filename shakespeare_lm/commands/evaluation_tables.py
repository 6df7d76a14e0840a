"""Evaluations and baselines -> what `evaluate` prints.

Enters: what the evaluation gave. Leaves: tables for a terminal, or one JSON object for programs.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from shakespeare_lm.evaluation.baselines import Baseline, verdict
from shakespeare_lm.evaluation.breakdown import Group, Passage
from shakespeare_lm.evaluation.copying import Copying
from shakespeare_lm.evaluation.evaluation import Evaluation
from shakespeare_lm.evaluation.ranking import notes, ranked

_LENGTHS_SHOWN = (4, 6, 8, 10, 15, 20, 30, 50, 100)


def print_evaluations(
    console: Console, evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]
) -> None:
    """Print everything, the ranking first."""
    first = evaluations[0]
    console.print(f"{first.characters:,} characters of the {first.part} part, nats per character\n")
    console.print(ranking_table(evaluations, baselines))
    for one in evaluations:
        console.print(f"\n{one.name}")
        console.print(f"  {verdict(one.block_nats, baselines)}")
        for line in notes(one):
            console.print(f"  {line}")
    for one in evaluations:
        if one.breakdown:
            console.print(f"\nWhere the loss of {one.name} is")
            for kind, groups in one.breakdown.groups.items():
                console.print(groups_table(kind, groups))
            console.print("\nThe most surprising passages")
            console.print(passages_table(one.breakdown.passages))
        if one.copying:
            print_copying(console, one.name, one.copying)


def ranking_table(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> Table:
    """Return all models in one table, the best first."""
    table = Table(box=None, pad_edge=False)
    for name in ("nats", "bits", "perplexity"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("", overflow="fold")
    for row in ranked(evaluations, baselines):
        figures = f"{row.nats:.4f}", f"{row.bits:.4f}", f"{row.perplexity:.3f}"
        table.add_row(*figures, row.name, row.note, style="bold" if row.evaluated else "")
    return table


def groups_table(kind: str, groups: Sequence[Group]) -> Table:
    """Return one line per group."""
    table = Table(box=None, pad_edge=False)
    table.add_column(kind, min_width=24)
    for name in ("characters", "nats", "of the loss"):
        table.add_column(name, justify="right")
    for one in groups:
        table.add_row(one.name, f"{one.characters:,}", f"{one.nats:.4f}", f"{one.share:.1%}")
    return table


def passages_table(passages: Sequence[Passage]) -> Table:
    """Return one line per passage."""
    table = Table("nats", "at", Column("", overflow="fold"), box=None, pad_edge=False)
    for one in passages:
        # As Python writes it, so that line breaks do not end the row.
        table.add_row(f"{one.nats:.3f}", f"{one.start:,}", Text(repr(one.text)))
    return table


def print_copying(console: Console, name: str, copying: Copying) -> None:
    """Print how much of the samples, and of the held-out text, stands in the training part."""
    console.print(f"\nDoes {name} copy? Substrings that stand in the training part")
    console.print(copied_table(copying))
    for label, one in (("samples", copying.sampled), ("held-out text", copying.held_out)):
        copied = one.longest
        console.print(
            Text(
                f"longest in the {label}: {len(copied.text)} characters, from line {copied.line:,} "
                f"of the training part: {copied.text!r}"
            )
        )
    console.print(f"\nGreedy completion after {copying.prefix} characters repeats the text")
    table = Table("characters", "training part", "held-out text", box=None, pad_edge=False)
    for rate in copying.extraction:
        table.add_row(str(rate.suffix), _percent(rate.train), _percent(rate.held_out))
    console.print(table)


def copied_table(copying: Copying) -> Table:
    """Return one line per length of substrings, then those about words."""
    table = Table("length", box=None, pad_edge=False)
    for name in ("samples", "held-out text"):
        table.add_column(name, justify="right")
    both = copying.sampled, copying.held_out
    for length in _LENGTHS_SHOWN:
        if length <= min(len(one.copied) for one in both):
            table.add_row(str(length), *(_percent(one.copied[length - 1]) for one in both))
    table.add_row("known words", *(_percent(one.known_words) for one in both))
    for count, name in enumerate(("words", "pairs of words", "three words in a row")):
        table.add_row(f"different {name}", *(_percent(one.distinct[count]) for one in both))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def as_json(evaluations: Sequence[Evaluation], baselines: Sequence[Baseline]) -> str:
    """Return everything but the losses of single characters as one JSON object."""
    content = {
        "evaluations": [{**asdict(one), "agrees": one.agrees} for one in evaluations],
        "baselines": [asdict(one) for one in baselines],
    }
    for one in content["evaluations"]:
        del one["losses"]
    return json.dumps(content, indent=2, ensure_ascii=False)
