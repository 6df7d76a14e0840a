"""Measure what feeding costs: python scripts/bench.py feed [--corpus sample] [RECIPE ...].

For each recipe, the time to make a batch beside the time of a training step on it (forward,
backward, optimizer, in a plain PyTorch loop). A readable table, then one JSON line.
"""

import argparse
import json
import platform
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
import yaml

from shakespeare_lm.chunks import Batch
from shakespeare_lm.datamodule import ShakespeareDataModule
from shakespeare_lm.loss import masked_cross_entropy
from shakespeare_lm.module import ShakespeareLM
from shakespeare_lm.optim import build_optimizer

CONFIGS = Path(__file__).parents[1] / "configs"


def median_seconds(action: Callable[[], object], repeats: int, warm_up: int = 2) -> float:
    for _ in range(warm_up):
        action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def training_step(module: ShakespeareLM, batch: Batch) -> Callable[[], None]:
    h = module.hparams
    optimizer = build_optimizer(
        h["optimizer"], module.transformer, h["learning_rate"], h["weight_decay"], h["beta2"]
    )

    def step() -> None:
        nats, count = masked_cross_entropy(module(batch.inputs), batch.targets, batch.target_mask)
        optimizer.zero_grad()
        (nats / count).backward()
        optimizer.step()

    return step


def measure(recipe: str, corpus: str, steps: int) -> dict[str, Any]:
    config = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    data = ShakespeareDataModule(**{**config["data"], "corpus": corpus})
    data.setup()
    options: dict[str, Any] = {"context_length": data.context_length, **config["model"]}
    module = ShakespeareLM(data.vocabulary, **options)
    loader = data.train_dataloader()
    epochs: Iterator[Batch] = chain.from_iterable(repeat(loader))
    # A whole epoch: what is prepared once per epoch, or per some batches, is counted in.
    feed = median_seconds(lambda: deque(islice(epochs, len(loader)), maxlen=0), 3, 1) / len(loader)
    step = median_seconds(training_step(module, next(epochs)), steps)
    return {"recipe": recipe, "feed_us": feed * 1e6, "step_ms": step * 1e3, "share": feed / step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["feed"])
    parser.add_argument(
        "recipes", nargs="*", default=sorted(p.stem for p in CONFIGS.glob("*.yaml"))
    )
    parser.add_argument("--corpus", default="auto")
    parser.add_argument("--steps", type=int, default=5, help="training steps to time (5)")
    arguments = parser.parse_args()
    print(f"{'recipe':12} {'feeding':>12} {'step':>12} {'share':>8}")
    rows = []
    for recipe in arguments.recipes:
        row = measure(recipe, arguments.corpus, arguments.steps)
        rows.append(row)
        feed, step = f"{row['feed_us']:.1f} us", f"{row['step_ms']:.2f} ms"
        print(f"{recipe:12} {feed:>12} {step:>12} {row['share']:>8.2%}", flush=True)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(
        json.dumps({"bench": "feed", **machine, "python": platform.python_version(), "rows": rows})
    )


if __name__ == "__main__":
    main()
