"""The command `evaluate`: how good models are, beside models that only count, compressors, and what
others have published.

Enters: the options of `scripts/evaluate.py`. Leaves: a table on stdout, the best on top; with
--json everything for programs.
"""

import argparse
import json
import math
import sys
from dataclasses import asdict
from typing import Any, get_args

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.commands.shared import check_output, opened, progress_bar, run
from shakespeare_lm.data.corpus import NAMED_CORPORA
from shakespeare_lm.data.documents import encode_documents
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.evaluation.baselines import (
    PUBLISHED,
    Baseline,
    compressed,
    counted,
    verdict,
)
from shakespeare_lm.evaluation.breakdown import Breakdown, Group, Passage, break_down
from shakespeare_lm.evaluation.evaluation import Evaluation, PartName, SplitCorpus, evaluate
from shakespeare_lm.hardware import DEVICES
from shakespeare_lm.invocation import command_line

_WIDTH_OF_A_FILE = 200  # no line of the table is folded


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all options."""
    parser = argparse.ArgumentParser(
        prog=command_line("evaluate"),
        description="Say how good models are: exact losses on a whole part of their corpus, beside "
        "models that only count, compressors, and what others have published.",
    )
    add = parser.add_argument
    add(
        "--ckpt",
        nargs="+",
        metavar="PATH",
        default=[None],
        help="checkpoints, or folders of runs (default: the newest run's best)",
    )
    add("--corpus", help="another corpus than the checkpoint's, with the same split")
    add("--part", choices=get_args(PartName), default="val", help="of the corpus (default: val)")
    add(
        "--stride",
        type=int,
        metavar="N",
        help="how far the sliding window moves on; 1 is exact (default: an eighth of the context)",
    )
    add(
        "--where",
        action="store_true",
        help="show also where the loss is: position in the context, kind of character, place in "
        "the word, document; and the most surprising passages",
    )
    add("--device", choices=DEVICES, default="cpu", help="auto takes a GPU if there is one (cpu)")
    add("--json", metavar="FILE", help="write everything to FILE too (- for stdout, alone)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    arguments = build_parser().parse_args(argv)
    return run(lambda: evaluate_all(arguments))


def evaluate_all(arguments: argparse.Namespace) -> int:
    """Evaluate the checkpoints, and only then open the output: a mistake leaves no empty file."""
    paths = [find_checkpoint(given) for given in arguments.ckpt]
    check_output(arguments.json, *paths)
    checkpoints = [read_checkpoint(path) for path in paths]
    evaluations, found = [], []
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        corpus = SplitCorpus(checkpoint, arguments.corpus)
        with progress_bar(f"evaluating {path}") as progress:
            evaluations.append(
                evaluate(
                    checkpoint, path, corpus, arguments.part,
                    arguments.stride, arguments.device, progress,
                )
            )  # fmt: skip
        if arguments.where:
            documents = corpus.documents(arguments.part)
            context_length = checkpoint.config.context_length
            found.append(break_down(documents, evaluations[-1].losses, context_length))
    baselines = _baselines(corpus, arguments.part)
    if arguments.json is not None:
        with opened(arguments.json) as output:
            output.write(as_json(evaluations, baselines, found) + "\n")
    if arguments.json != "-":
        _print(evaluations, baselines, found)
    return 0


def _baselines(corpus: SplitCorpus, part: PartName) -> list[Baseline]:
    train, texts = corpus.parts.train, corpus.documents(part)
    tokenizer = CharTokenizer.from_text(*train, *texts)
    known, text = (encode_documents(documents, tokenizer) for documents in (train, texts))
    ngrams = counted(known, text, len(tokenizer.vocabulary))
    baselines = [*ngrams, *compressed(train, texts)]
    if part == "val" and corpus.is_published_split(NAMED_CORPORA["tinyshakespeare"].sha256):
        baselines += PUBLISHED
    return baselines


def _print(
    evaluations: list[Evaluation], baselines: list[Baseline], found: list[Breakdown]
) -> None:
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_FILE
    first = evaluations[0]
    console.print(f"{first.characters:,} characters of the {first.part} part, nats per character\n")
    console.print(as_table(evaluations, baselines))
    for one in evaluations:
        console.print(f"\n{one.checkpoint}")
        console.print(f"  {verdict(one.block_nats, baselines)}")
        for line in notes(one):
            console.print(f"  {line}")
    for one, where in zip(evaluations, found, strict=False):
        console.print(f"\nWhere the loss of {one.checkpoint} is")
        for kind, groups in where.groups.items():
            console.print(groups_table(kind, groups))
        console.print("\nThe most surprising passages")
        console.print(passages_table(where.passages))


def groups_table(kind: str, groups: list[Group]) -> Table:
    """Return one line per group."""
    table = Table(box=None, pad_edge=False)
    table.add_column(kind, min_width=24)
    for name in ("characters", "nats", "of the loss"):
        table.add_column(name, justify="right")
    for one in groups:
        table.add_row(one.name, f"{one.characters:,}", f"{one.nats:.4f}", f"{one.share:.1%}")
    return table


def passages_table(passages: list[Passage]) -> Table:
    """Return one line per passage."""
    table = Table("nats", "at", Column("", overflow="fold"), box=None, pad_edge=False)
    for one in passages:
        # As Python writes it, so that line breaks do not end the row.
        table.add_row(f"{one.nats:.3f}", f"{one.start:,}", Text(repr(one.text)))
    return table


def as_table(evaluations: list[Evaluation], baselines: list[Baseline]) -> Table:
    """Return all models in one table, the best first."""
    rows = [(one.nats, one.name, one.note, "") for one in baselines]
    for one in evaluations:
        rows.append((one.block_nats, one.checkpoint, "in blocks of the context", "bold"))
        sliding = f"sliding window, {one.stride} new characters each"
        rows.append((one.sliding_nats, one.checkpoint, sliding, "bold"))
    table = Table(box=None, pad_edge=False)
    for name in ("nats", "bits", "perplexity"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("", overflow="fold")
    for nats, name, note, style in sorted(rows):
        figures = f"{nats:.4f}", f"{nats / math.log(2):.4f}", f"{math.exp(nats):.3f}"
        table.add_row(*figures, name, note, style=style)
    return table


def notes(one: Evaluation) -> list[str]:
    """Return what else is to be known about an evaluation."""
    found = [] if one.warning is None else [f"not the data of its training: {one.warning}"]
    if one.agrees:
        found.append(f"its stored val_loss, {one.stored_val_loss:.6f}, is the same")
    elif one.agrees is False:
        found.append(
            f"its stored val_loss is {one.stored_val_loss:.6f}, recomputed {one.block_nats:.6f}: "
            "another device or precision"
        )
    return found


def as_json(
    evaluations: list[Evaluation], baselines: list[Baseline], found: list[Breakdown]
) -> str:
    """Return everything but the losses of single characters as one JSON object."""
    content: dict[str, Any] = {
        "evaluations": [{**asdict(one), "agrees": one.agrees} for one in evaluations],
        "baselines": [one._asdict() for one in baselines],
    }
    for one in content["evaluations"]:
        del one["losses"]
    for one, where in zip(content["evaluations"], found, strict=False):
        one["where"] = {
            kind: [group._asdict() for group in groups] for kind, groups in where.groups.items()
        }
        one["passages"] = [passage._asdict() for passage in where.passages]
    return json.dumps(content, indent=2, ensure_ascii=False)
