"""The command `page`: a model as one HTML page that runs it in any browser, offline.

Enters: the options of `scripts/page.py`. Leaves: the page, and on stdout what packing its weights
costs.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from shakespeare_lm.checkpoint.card import card, num_weights
from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.commands.exit_code import run
from shakespeare_lm.commands.exported_losses import (
    ExportedLosses,
    measure_exported,
    measured_on,
    print_cost,
    trained_on,
)
from shakespeare_lm.commands.text_files import check_output, write_text
from shakespeare_lm.evaluation.line_chart import Line, axis, line_chart
from shakespeare_lm.invocation import command_line
from shakespeare_lm.methods.networks import Network, build_network
from shakespeare_lm.page.html import PageContent, build_page, check_fits
from shakespeare_lm.page.packing import Packed, pack
from shakespeare_lm.page.run_log import Curve, RunLog, read_run_log

_PROMPT = "ROMEO:\n"
# Losses above are of the first steps, and would make the rest of the curve flat.
_HIGHEST_LOSS = 2.6


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all options."""
    parser = argparse.ArgumentParser(
        prog=command_line("page"),
        description="Make one HTML page that runs the model in any browser, offline, and shows how "
        "it works.",
    )
    add = parser.add_argument
    add(
        "--ckpt",
        metavar="PATH",
        help="a checkpoint, or the folder of a run (default: the newest run's best)",
    )
    add("--output", metavar="FILE", default="model.html", help="the page (model.html)")
    add("--title", default="A small language model", help="of the page")
    add("--corpus", help="another corpus than the checkpoint's, to measure val_loss on")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    arguments = build_parser().parse_args(argv)
    return run(lambda: make_page(arguments))


def make_page(arguments: argparse.Namespace) -> int:
    """Write the page when everything for it is there: a mistake leaves no file."""
    path = find_checkpoint(arguments.ckpt)
    check_output(arguments.output, path)
    checkpoint = read_checkpoint(path)
    check_fits(checkpoint.config, checkpoint.tokenizer.vocab_size)
    packed = pack(checkpoint.distinct_weights)
    losses = measure_exported(checkpoint, arguments.corpus, _network(checkpoint, packed))
    print_cost(losses, "with the page's weights, in 8 bits,")
    page = page_of(path, checkpoint, packed, arguments.title, losses)
    write_text(arguments.output, page)
    print(
        f"{arguments.output}: {len(page.encode()):,} bytes; open it in a browser", file=sys.stderr
    )
    return 0


def page_of(
    path: Path,
    checkpoint: Checkpoint,
    packed: Packed,
    title: str,
    losses: ExportedLosses | None = None,
) -> str:
    """Return the page of a checkpoint, with what is known about its run."""
    log = read_run_log(path.parent.parent)
    corpus = trained_on(checkpoint, losses)
    facts = card(checkpoint, corpus, path.stat().st_mtime, version("shakespeare-lm"))
    return build_page(
        PageContent(
            title=title,
            subtitle=f"{num_weights(checkpoint):,} weights, trained on {corpus}.",
            tokenizer=checkpoint.tokenizer,
            config=checkpoint.config,
            packed=packed,
            prompt=_PROMPT if set(_PROMPT) <= set(checkpoint.tokenizer.vocabulary) else "",
            card=facts + _loss_facts(losses),
            chart=_chart(log, losses),
            samples=log.samples,
        )
    )


def unmeasured_page(path: Path, checkpoint: Checkpoint, title: str) -> str:
    """Return the page of a checkpoint at once, without losses.

    Raises:
        UserError: if a page cannot hold it.
    """
    check_fits(checkpoint.config, checkpoint.tokenizer.vocab_size)
    return page_of(path, checkpoint, pack(checkpoint.distinct_weights), title)


def _network(checkpoint: Checkpoint, packed: Packed) -> Network:
    """Return the network with the weights that the page has."""
    config = checkpoint.config
    network = build_network(checkpoint.tokenizer.vocab_size, config, initialise=False)
    # A tied head is packed once, and its module has both names.
    network.load_state_dict(packed.rounded, strict=not config.tied_head)
    return network


def _loss_facts(losses: ExportedLosses | None) -> list[tuple[str, str]]:
    if losses is None:
        return []
    others = [(name, f"{nats:.4f}") for name, nats in losses.others.items()]
    return [
        ("Measured on", measured_on(losses)),
        ("val_loss", f"{losses.model:.4f} nats per character"),
        ("In this page", f"{losses.exported:.4f}, with weights in 8 bits"),
        *others,
    ]


def _chart(log: RunLog, losses: ExportedLosses | None) -> str:
    """Return the curves of the run's losses, with other models as level lines."""
    curves = {"train_loss": log.train_loss, "val_loss": log.val_loss}
    lines = [Line(name, curve) for name, curve in _shown(curves).items() if curve]
    if not lines:
        return ""
    last = max(step for line in lines for step, _ in line.points)
    others = losses.others if losses else {}
    lines += [Line(name, [(0, nats), (last, nats)]) for name, nats in others.items()]
    values = [nats for line in lines for _, nats in line.points]
    return line_chart(
        "Losses by the number of steps", axis("steps", [0, last]),
        axis("nats per character", values), lines,
    )  # fmt: skip


def _shown(curves: dict[str, Curve]) -> dict[str, Curve]:
    """Leave out the first steps, unless there is nothing else."""
    shown = {
        name: [(step, loss) for step, loss in curve if loss <= _HIGHEST_LOSS]
        for name, curve in curves.items()
    }
    return shown if any(shown.values()) else curves
