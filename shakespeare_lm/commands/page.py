"""The command `page`: a model as one HTML page that runs it in any browser, offline.

Enters: the options of `scripts/page.py`. Leaves: the page, and on stdout what packing its weights
costs.
"""

import argparse
import sys
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from torch import Tensor

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.commands.exit_code import run
from shakespeare_lm.commands.progress_bar import progress_bar
from shakespeare_lm.commands.text_files import check_output, write_text
from shakespeare_lm.data.corpus import NAMED_CORPORA
from shakespeare_lm.data.documents import Documents, encode_documents
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.baselines import PUBLISHED, counted
from shakespeare_lm.evaluation.evaluation import encode
from shakespeare_lm.evaluation.line_chart import Line, axis, line_chart
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.evaluation.split_corpus import SplitCorpus
from shakespeare_lm.invocation import command_line
from shakespeare_lm.network.build import build_network
from shakespeare_lm.page.card import card, corpus_name, num_weights
from shakespeare_lm.page.html import PageContent, build_page, check_fits
from shakespeare_lm.page.packing import Packed, pack
from shakespeare_lm.page.run_log import Curve, RunLog, read_run_log

_PROMPT = "ROMEO:\n"
# Losses above are of the first steps, and would make the rest of the curve flat.
_HIGHEST_LOSS = 2.6
_ORDER = 7  # of the n-gram model that its losses are compared with


class Losses(NamedTuple):
    """Mean losses over the validation part in blocks of the context, in nats per character.

    Args:
        model: as the checkpoint has it.
        packed: with its weights as the page has them.
        others: of other models, by name.
        corpus: the name of the text.
    """

    model: float
    packed: float
    others: dict[str, float]
    corpus: str


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
    packed = pack(_distinct(checkpoint))
    losses = _losses(checkpoint, packed, arguments.corpus)
    log = read_run_log(path.parent.parent)
    corpus = losses.corpus if losses else corpus_name(checkpoint)
    facts = card(checkpoint, corpus, path.stat().st_mtime, version("shakespeare-lm"))
    content = PageContent(
        title=arguments.title,
        subtitle=f"{num_weights(checkpoint):,} weights, trained on {corpus}.",
        tokenizer=checkpoint.tokenizer,
        config=checkpoint.config,
        packed=packed,
        prompt=_PROMPT if set(_PROMPT) <= set(checkpoint.tokenizer.vocabulary) else "",
        card=facts + _loss_facts(losses),
        chart=_chart(log, losses),
        samples=log.samples,
    )
    page = build_page(content)
    write_text(arguments.output, page)
    print(
        f"{arguments.output}: {len(page.encode()):,} bytes; open it in a browser", file=sys.stderr
    )
    return 0


def _distinct(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights; of a tied head only the embedding."""
    tied = checkpoint.config.tied_head
    return {n: w for n, w in checkpoint.weights.items() if not (tied and n == "head.weight")}


def _losses(checkpoint: Checkpoint, packed: Packed, corpus: str | None) -> Losses | None:
    """Return, and print, what packing costs; None if there is no text to measure it on."""
    try:
        losses = _measured(checkpoint, packed, SplitCorpus(checkpoint, corpus))
    except (UserError, OSError) as error:
        print(f"warning: what packing costs is not measured: {error}", file=sys.stderr)
        return None
    print(
        f"val_loss {losses.model:.4f}; with the page's weights, in 8 bits, {losses.packed:.4f} "
        f"({losses.packed - losses.model:+.5f})",
        file=sys.stderr,
    )
    return losses


def _measured(checkpoint: Checkpoint, packed: Packed, split: SplitCorpus) -> Losses:
    text = encode(split.documents("val"), checkpoint.tokenizer)
    model, rounded = (
        _val_loss(checkpoint, weights, text) for weights in (checkpoint.weights, packed.rounded)
    )
    published = split.is_published_split(NAMED_CORPORA["tinyshakespeare"].sha256)
    others = {PUBLISHED[0].name: PUBLISHED[0].nats} if published else {}
    corpus = "tiny Shakespeare" if published else corpus_name(checkpoint)
    return Losses(model, rounded, others | _ngram(split), corpus)


def _val_loss(checkpoint: Checkpoint, weights: dict[str, Tensor], text: Documents) -> float:
    config = checkpoint.config
    network = build_network(checkpoint.tokenizer.vocab_size, config, initialise=False)
    # A tied head is packed once, and its module has both names.
    network.load_state_dict(weights, strict=not config.tied_head)
    with progress_bar("measuring val_loss") as progress:
        losses = character_losses(network, text, config.context_length, progress=progress)
    return float(np.nanmean(losses))


def _ngram(split: SplitCorpus) -> dict[str, float]:
    tokenizer = CharTokenizer.from_text(*split.parts.train, *split.parts.val)
    train, val = (encode_documents(part, tokenizer) for part in split.parts[:2])
    try:
        with progress_bar("counting n-grams") as progress:
            models = {
                one.name: one.nats
                for one in counted(train, val, len(tokenizer.vocabulary), progress)
            }
    except UserError as error:  # the memory: the page is worth having without it
        print(f"warning: without n-gram models: {error}", file=sys.stderr)
        return {}
    name = f"{_ORDER}-gram"
    return {name: models[name]}


def _loss_facts(losses: Losses | None) -> list[tuple[str, str]]:
    if losses is None:
        return []
    others = [(name, f"{nats:.4f}") for name, nats in losses.others.items()]
    return [
        ("val_loss", f"{losses.model:.4f} nats per character"),
        ("In this page", f"{losses.packed:.4f}, with weights in 8 bits"),
        *others,
    ]


def _chart(log: RunLog, losses: Losses | None) -> str:
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
