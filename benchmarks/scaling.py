"""How step time and memory grow with batch, context, width and depth, and with the corpus.

Each axis is varied around one recipe, in a plain PyTorch loop, every point in a fresh process.
Below it stands with which power of the axis its figures grew at its end: 1 is linear. Memory is
what a point needs beyond a tiny model. Further options are those of fit.py.
"""

import argparse
import gc
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shakespeare_lm.data.corpus import load_corpus
from shakespeare_lm.data.datamodule import ShakespeareDataModule

from . import recipe
from .memory import in_fresh_process, peak_bytes, resident_bytes
from .plain import PlainLoop
from .report import milliseconds, print_json, print_row
from .timing import Spread, repeated

AXES = {
    "batch": ("data.batch_size", (6, 12, 24, 48, 96)),
    "context": ("data.context_length", (32, 64, 128, 256, 512)),
    "width": ("model.d_model", (80, 160, 320, 640)),
    "depth": ("model.num_layers", (1, 2, 4, 8)),
}
# Run first, so that what a process needs for any training at all is not counted.
_TINY = (
    "--data.batch_size=2",
    "--data.context_length=8",
    "--model.num_layers=1",
    "--model.d_model=120",  # a multiple of every recipe's num_heads
)
_LINEAR = (0.85, 1.15)  # powers in between are called linear: measured times are not exact
_MANY_SYMBOLS = "".join(map(chr, range(0x4E00, 0x4E00 + 1000)))


class Point(NamedTuple):
    """What one size of the model or the batch takes."""

    value: int
    step_seconds: Spread
    memory_bytes: int


class Start(NamedTuple):
    """What a corpus takes until its first batch is there."""

    characters: int
    symbols: int
    seconds: float
    bytes_per_character: float
    setup_bytes: int  # resident after `setup`, and after the first batch
    resident_bytes: int
    peak_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    recipe.add_arguments(parser)
    # Loading a longer text leaves freed memory behind, in which that of small points would hide.
    parser.set_defaults(corpus="sample")
    add = parser.add_argument
    add("--axes", nargs="*", default=list(AXES), choices=list(AXES), help="(all)")
    add("--points", type=int, default=5, help="at most so many of an axis (5)")
    add("--repeats", type=int, default=5, help="blocks of steps per point (5)")
    add("--steps", type=int, default=4, help="steps per block (4)")
    add("--megabytes", type=float, nargs="*", default=[1, 10, 100], help="corpora (1 10 100)")


def run(arguments: argparse.Namespace, more: Sequence[str]) -> None:
    options = recipe.options_of(arguments, more)
    with recipe.built(options) as cli:
        device, corpus = recipe.device_of(cli), cli.datamodule.corpus
    axes = {axis: measure_axis(axis, options, arguments) for axis in arguments.axes}
    corpora = measure_corpora(load_corpus(corpus)[0], arguments.megabytes)
    print_json("scaling", device, axes=axes, corpora=corpora)


def measure_axis(
    axis: str, options: Sequence[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure and print the points of an axis, each in a fresh process."""
    name, values = AXES[axis]
    print_row(axis, "step", "quartiles", "memory")
    points = []
    for value in values[: arguments.points]:
        asked = [*options, f"--{name}={value}"]
        point = in_fresh_process(measure_point, value, asked, arguments.steps, arguments.repeats)
        print_row(
            f"{value:>10}", *milliseconds(point.step_seconds), f"{point.memory_bytes / 1e6:,.1f} MB"
        )
        points.append(point)
    time_power = last_power([(point.value, point.step_seconds.median) for point in points])
    memory_power = last_power([(point.value, point.memory_bytes) for point in points])
    print(f"  at the end: step time {in_words(time_power)}; memory {in_words(memory_power)}")
    rows = [point._asdict() for point in points]
    return {"points": rows, "step_seconds_power": time_power, "memory_bytes_power": memory_power}


def measure_point(value: int, options: list[str], steps: int, repeats: int) -> Point:
    """Train for a few steps, and return what it took beyond a tiny model's needs."""
    with recipe.built([*options, *_TINY]) as cli:
        tiny = PlainLoop(cli)
        tiny.step()
    device = tiny.device
    del tiny, cli
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = peak_bytes(device)
    with recipe.built(options) as cli:
        seconds = repeated(PlainLoop(cli).step, steps, repeats, device)
    return Point(value, seconds, peak_bytes(device) - before)


def last_power(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the slope between the last two points (x, y) on logarithmic axes, if it has one."""
    if len(points) < 2 or min(y for _, y in points[-2:]) <= 0:
        return None
    (x_before, y_before), (x, y) = points[-2:]
    return math.log(y / y_before) / math.log(x / x_before)


def in_words(exponent: float | None) -> str:
    if exponent is None:
        return "growth unknown"
    low, high = _LINEAR
    kind = "linear" if low <= exponent <= high else "less" if exponent < low else "more"
    kind += "" if kind == "linear" else " than linear"
    return f"grows with the power {exponent:.2f}, {kind}"


def measure_corpora(text: str, megabytes: Sequence[float]) -> list[dict[str, Any]]:
    """Measure and print texts of some lengths, and one with more symbols than a byte has."""
    sizes = [int(size * 1e6) for size in megabytes]
    texts = [(text, size) for size in sizes]
    if sizes:
        texts.append((_MANY_SYMBOLS, max(sizes) // 10))
    print_row("corpus", "symbols", "first batch", "bytes/char", "after setup", "resident", "peak")
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        for pattern, size in texts:
            path = Path(folder) / "corpus.txt"
            path.write_text((pattern * (size // len(pattern) + 1))[:size], encoding="utf-8")
            starts.append(in_fresh_process(measure_start, path))
            print_start(starts[-1])
    seconds = last_power([(start.characters, start.seconds) for start in starts[: len(sizes)]])
    memory = last_power(
        [(start.characters, start.resident_bytes) for start in starts[: len(sizes)]]
    )
    print(f"  at the end: first batch {in_words(seconds)}; resident {in_words(memory)}")
    return [start._asdict() for start in starts]


def measure_start(path: Path) -> Start:
    """Load a corpus up to its first batch."""
    cpu = torch.device("cpu")
    resident, peak = resident_bytes(), peak_bytes(cpu)
    start = time.perf_counter()
    data = ShakespeareDataModule(corpus=str(path))
    data.setup()
    after_setup = resident_bytes()
    batches = iter(data.train_dataloader())
    next(batches)
    seconds = time.perf_counter() - start
    parts = [part.ids for part in data.encoded.values()]
    characters = sum(len(ids) for ids in parts)
    return Start(
        characters,
        len(data.vocabulary),
        seconds,
        sum(ids.nbytes for ids in parts) / characters,
        after_setup - resident,
        resident_bytes() - resident,
        peak_bytes(cpu) - peak,
    )


def print_start(start: Start) -> None:
    print_row(
        f"{start.characters:>14,}",
        f"{start.symbols:,}",
        f"{start.seconds:.2f} s",
        f"{start.bytes_per_character:.2f}",
        f"{start.setup_bytes / 1e6:,.1f} MB",
        f"{start.resident_bytes / 1e6:,.1f} MB",
        f"{start.peak_bytes / 1e6:,.1f} MB",
    )
