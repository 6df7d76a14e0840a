"""The command `page`: a model as one HTML page that runs it in any browser, offline."""

import sys
import webbrowser
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from torch import Tensor

from shakespeare_lm.checkpoint.model_card import num_weights
from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.commands.console import command, progress_bar, utf8
from shakespeare_lm.commands.exported import (
    CHECKED_CHARACTERS,
    Losses,
    check_exported,
    corpus_inputs,
    measure_losses,
    model_facts,
    page_network,
    trained_on,
)
from shakespeare_lm.commands.model_options import add_shared
from shakespeare_lm.commands.text_files import check_output, write_text, write_whole
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.line_chart import Line, axis, line_chart
from shakespeare_lm.page.history import History, pack_moments
from shakespeare_lm.page.html import Companion, PageContent, build_page, check_fits, opening
from shakespeare_lm.page.packing import Packed, pack
from shakespeare_lm.page.run_log import RunLog, read_run_log

_OPENING = 2000  # characters that surely have a whole line
_PASSAGE = 400  # characters, of the guessing game
# Losses above are of the first steps, and would make the rest of the curve flat.
_HIGHEST_LOSS = 2.6


def _add_options(parser: ArgumentParser) -> None:
    add_shared(
        parser, "ckpt", nargs="+",
        help="a checkpoint, or the folder of a run (default: the newest run's best); a second one "
        "is shown beside it, on the same text",
    )  # fmt: skip
    parser.add_argument("--output", metavar="FILE", default="model.html", help="the page")
    parser.add_argument("--title", type=utf8, default="A small language model", help="of the page")
    parser.add_argument(
        "--history", action="store_true",
        help="add a slider to five earlier moments of the training, from checkpoints of the run",
    )  # fmt: skip
    add_shared(parser, "corpus")
    parser.add_argument("--open", action="store_true", help="open the page in your browser")


@command(
    "page",
    "Make one HTML page that runs the model in any browser, offline, and shows how it works.",
    _add_options,
)
def main(arguments: Namespace) -> int:
    """Write the page when everything for it is there: a mistake leaves no file."""
    if arguments.open and arguments.output == "-":
        raise UserError("open needs a file: output is -, which is stdout; name one with --output")
    path, *others = map(find_checkpoint, arguments.ckpt or [None])
    if len(others) > 1:
        raise UserError(f"ckpt names {len(others) + 1} checkpoints: expected one or two")
    checkpoint = read_checkpoint(path)
    check_output(arguments.output, path, *others, *corpus_inputs(checkpoint, arguments.corpus))
    check_fits(checkpoint)
    packed = pack(checkpoint.distinct_weights)
    history = pack_moments(path, checkpoint, packed) if arguments.history else None
    more = [_Part(number, f"the page, {number} moments before", checkpoint, weights)
            for number, weights in enumerate(history.rounded if history else (), 1)]  # fmt: skip
    beside = None
    companions = [*map(read_checkpoint, others)]
    for other in companions:
        beside = _companion(other)
        more.append(_Part("beside", "the other model", other, beside.packed.rounded))
    losses = measure_losses(checkpoint, arguments.corpus)
    make = partial(_page, path, checkpoint, packed, arguments.title, losses)
    with progress_bar("making and checking the page"):
        exact = _Part(0, "the page (8-bit weights)", checkpoint, packed.rounded)
        cost = _check(make(history=history, beside=beside), exact, losses, more)
        page = make(history=history, beside=beside, cost=cost)
    write_text(arguments.output, page)
    for _, note in [fact for one in (checkpoint, *companions) for fact in _memory_facts(one)]:
        print(f"note: {note}", file=sys.stderr)
    size = len(page.encode())
    opened = arguments.open and webbrowser.open(Path(arguments.output).resolve().as_uri())
    hint = "opened in your browser" if opened else "open it in a browser"
    print(f"{arguments.output}: {size:,} bytes; {hint}", file=sys.stderr)
    return 0


class _Part(NamedTuple):
    """A model that a page can run, and the weights with which it must compute."""

    which: int | str  # as for `page_network`
    form: str
    model: Checkpoint
    rounded: dict[str, Tensor]

    def check(self, page: Path, losses: Losses | None = None) -> float | None:
        exact = self.model.network()
        # A tied head is packed once, and its module has both names.
        exact.load_state_dict(self.rounded, strict=not self.model.config.tied_head)
        network = page_network(page, self.which)
        return check_exported(self.model, network, self.form, "Node.js", losses, exact)


def _check(page: str, first: _Part, losses: Losses | None, more: Sequence[_Part]) -> float | None:
    """Run all parts of a page; return what weights in 8 bits cost the first, if that is known."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        write_whole(file, page.encode())
        cost = first.check(file, losses)
        for part in more:
            part.check(file)
    return cost


def _companion(checkpoint: Checkpoint) -> Companion:
    check_fits(checkpoint)
    packed = pack(checkpoint.distinct_weights)
    return Companion(_subtitle(checkpoint, None), checkpoint.tokenizer, checkpoint.config, packed)


def _subtitle(checkpoint: Checkpoint, losses: Losses | None) -> str:
    return f"{num_weights(checkpoint):,} weights, trained on {trained_on(checkpoint, losses)}."


def unmeasured_page(path: Path, checkpoint: Checkpoint, title: str) -> str:
    """Return the page of a checkpoint at once, without losses; a `UserError` says that a page
    cannot hold it.
    """
    check_fits(checkpoint)
    return _page(path, checkpoint, pack(checkpoint.distinct_weights), title)


def _page(
    path: Path, checkpoint: Checkpoint, packed: Packed, title: str,
    losses: Losses | None = None, cost: float | None = None, history: History | None = None,
    beside: Companion | None = None,
) -> str:  # fmt: skip
    """Return the page of a checkpoint, with what is known about its run."""
    log = read_run_log(path.parent.parent)
    tokenizer = checkpoint.tokenizer
    # A beginning of the text, or a text that the model made. Without both, it makes one at once.
    texts = [tokenizer.decode(losses.text.ids[:_OPENING].tolist())] if losses else []
    texts += [text for _, text in reversed(log.samples)]
    content = PageContent(
        title=title,
        subtitle=_subtitle(checkpoint, losses),
        tokenizer=tokenizer, config=checkpoint.config, packed=packed,
        prompt=opening(tokenizer, texts),
        card=model_facts(path, checkpoint, losses) + _memory_facts(checkpoint)
        + _loss_facts(losses, cost),
        chart=_chart(log, losses), passage=_passage(tokenizer, losses), samples=log.samples,
        history=history, beside=beside,
    )  # fmt: skip
    return build_page(content)


def _passage(tokenizer: CharTokenizer, losses: Losses | None) -> str:
    """Return some whole lines from the middle of the text, if the model was not trained on it."""
    if losses is None or not losses.is_own:
        return ""
    ids = losses.text.ids[len(losses.text.ids) // 2 :][:_OPENING]
    text = tokenizer.decode(ids.tolist())
    return (text.partition("\n")[2] or text)[:_PASSAGE]


def _memory_facts(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    if not checkpoint.config.memory_order:
        return []
    count = f"{len(checkpoint.weights['ngrams.text']):,} characters"
    return [("Text", f"this page holds the {count} that its n-gram memory has counted")]


def _loss_facts(losses: Losses | None, cost: float | None) -> list[tuple[str, str]]:
    if losses is None:
        return []
    run = f"(its JavaScript on {CHECKED_CHARACTERS:,} characters)"
    in_page = f"{cost:+.5f}, with weights in 8 bits {run}" if cost is not None else "not checked"
    return [
        ("Measured on", losses.measured_on),
        ("val_loss", f"{losses.model:.4f} nats per character"),
        ("In this page", in_page),
        *((name, f"{nats:.4f}") for name, nats in losses.others.items()),
    ]


def _chart(log: RunLog, losses: Losses | None) -> str:
    """Return the curves of the run's losses, with other models as level lines. The first steps are
    left out of a curve, unless it has nothing else.
    """
    shown = {
        name: [(step, loss) for step, loss in curve if loss <= _HIGHEST_LOSS] or curve
        for name, curve in log.losses.items()
    }
    # The loss on a sample is known more often than that on the whole part, which is exact.
    few = "val_loss" if "val_sample_loss" in shown else None
    lines = [Line(name, curve, name == few) for name, curve in shown.items()]
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
