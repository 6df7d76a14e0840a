"""`compare --speedrun`: an entry for docs/SPEEDRUN.md. Whole processes, in turns with nanoGPT's own
`train.py`, which is the clock: it tells a slow machine from a slow recipe.
"""

import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from shakespeare_lm.commands.console import UsageError
from shakespeare_lm.commands.experiment import options_of, say
from shakespeare_lm.commands.text_files import write_text
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.laboratory.trial import TrainedRun

TARGET_NATS = 1.4697  # nanoGPT's loss after three minutes of an A100, by its README
# nanoGPT's recipe for a laptop, by its README.
_CLOCK = (
    "train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=False",
    "--eval_iters=20", "--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4",
    "--n_head=4", "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0",
)  # fmt: skip


def speedrun(arguments: Namespace) -> int:
    """Train the options of `fit` that were typed once with each seed, and write the entry.

    Raises:
        UserError: if nanoGPT does not run, or a run crashes.
    """
    if arguments.nanogpt is None:
        raise UsageError(
            "--speedrun needs --nanogpt FOLDER: a clone of github.com/karpathy/nanoGPT"
        )
    options_of("speedrun", arguments.rest)
    runs, clock = [], []
    for seed in range(1, arguments.seeds + 1):
        clock.append(_clock(Path(arguments.nanogpt)))
        runs.append(_entry_run(arguments, seed))
        say(f"seed {seed}: val_loss {runs[-1]['val_loss']:.4f} in {runs[-1]['seconds']:.1f} s, "
            f"nanoGPT's train.py {clock[-1]:.1f} s")  # fmt: skip
    losses, seconds = ([run[name] for run in runs] for name in ("val_loss", "seconds"))
    entry = {
        "command": ["fit", *arguments.rest],
        "date": time.strftime("%Y-%m-%d"),
        "val_loss": statistics.fmean(losses),
        "deviation": statistics.stdev(losses) if len(losses) > 1 else None,
        "seconds": statistics.fmean(seconds),
        "nanogpt_seconds": statistics.fmean(clock),
        "ratio": statistics.fmean(s / c for s, c in zip(seconds, clock, strict=True)),
        "runs": runs,
    }
    write_text(arguments.speedrun, json.dumps(entry, indent=1) + "\n")
    say(f"{arguments.speedrun}: val_loss {entry['val_loss']:.4f} in {entry['seconds']:.1f} s, "
        f"{entry['ratio']:.2f} times nanoGPT's")  # fmt: skip
    return 0


def _clock(folder: Path) -> float:
    """Return how many seconds nanoGPT's `train.py` takes."""
    started = time.monotonic()
    command = [sys.executable, *_CLOCK]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"nanogpt is {folder}: {one_line(error)}") from None
    if done.returncode:
        *_, last = done.stderr.strip().splitlines() or ["no output"]
        raise UserError(f"nanogpt is {folder}: its train.py ended with: {last}")
    return time.monotonic() - started


def _entry_run(arguments: Namespace, seed: int) -> dict[str, Any]:
    run = TrainedRun(arguments.name, "speedrun", seed, arguments.rest, quiet=False)
    if run.folder.exists():
        raise UserError(f"{run.folder} exists, and a record is one process: choose another --name")
    started = time.monotonic()
    result = run.train()
    seconds = time.monotonic() - started
    reached = [
        one["seconds"]
        for one in run.record()["validations"]
        if one["val_loss"] is not None and one["val_loss"] <= TARGET_NATS
    ]
    return {
        "seed": seed,
        "val_loss": result.val_loss,
        "seconds": seconds,
        "seconds_to_target": min(reached, default=None),
        "steps": result.steps,
        "weights": result.weights,
        "flops": result.flops,
        "peak_memory_bytes": result.peak_memory_bytes,
        **result.provenance,
    }
