"""What feeding costs: the time to make a batch beside the time of a training step on it.

For each recipe: forward, backward, clipping and optimizer in a plain PyTorch loop, on a CPU.
"""

import argparse
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from shakespeare_lm.data.windows import WindowLoader
from shakespeare_lm.errors import UserError

from .plain import PlainLoop
from .recipe import CONFIGS, built
from .report import print_json, print_row
from .timing import repeated

_CPU = torch.device("cpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    recipes = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    parser.add_argument("recipes", nargs="*", default=recipes, help="their names (all)")
    parser.add_argument("--corpus", default="auto", help="the text for all of them (auto)")
    parser.add_argument("--steps", type=int, default=5, help="training steps to time (5)")


def run(arguments: argparse.Namespace, more: Sequence[str]) -> None:
    if more:
        raise UserError(
            f"feed does not know {' '.join(more)}: accepted are recipes and its options"
        )
    print_row("recipe", "feeding", "step", "share")
    rows = []
    for recipe in arguments.recipes:
        rows.append(row := measure(recipe, arguments.corpus, arguments.steps))
        feed, step = f"{row['feed_us']:.1f} us", f"{row['step_ms']:.2f} ms"
        print_row(recipe, feed, step, f"{row['share']:.2%}")
    print_json("feed", _CPU, rows=rows)


def measure(recipe: str, corpus: str, steps: int) -> dict[str, Any]:
    options = [f"--config={CONFIGS / recipe}.yaml", f"--data.corpus={corpus}", "--accelerator=cpu"]
    with built(options) as cli:
        loop = PlainLoop(cli)
        feed = seconds_per_batch(cli.datamodule.train_dataloader())
        batch = next(loop.batches)
        step = repeated(lambda: loop.train_on(batch), 1, steps, _CPU).median
    return {"recipe": recipe, "feed_us": feed * 1e6, "step_ms": step * 1e3, "share": feed / step}


def seconds_per_batch(loader: WindowLoader, epochs: int = 3) -> float:
    """Return the time to make a batch.

    Of whole epochs: what is prepared once per epoch, or per some batches, is counted in.
    """

    def epoch() -> None:
        deque(islice(loader, len(loader)), maxlen=0)

    return repeated(epoch, 1, epochs, _CPU, warm_up=1).median / len(loader)
