"""How the step time grows with batch size, context length, width and depth.

Each axis is varied around one recipe, in a plain PyTorch loop. Further options are those of fit.py.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

from benchmarks import recipe
from benchmarks.report import milliseconds, print_json, print_row
from benchmarks.timing import repeated
from benchmarks.train import PlainLoop

AXES = {
    "batch": ("data.batch_size", (6, 12, 24, 48, 96)),
    "context": ("data.context_length", (32, 64, 128, 256, 512)),
    "width": ("model.d_model", (80, 160, 320, 640)),
    "depth": ("model.num_layers", (1, 2, 4, 8)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    recipe.add_arguments(parser)
    add = parser.add_argument
    add("--axes", nargs="*", default=list(AXES), choices=list(AXES), help="(all)")
    add("--points", type=int, default=5, help="at most this many per axis (5)")
    add("--blocks", type=int, default=5, help="blocks of steps per point (5)")
    add("--steps", type=int, default=4, help="steps per block (4)")


def run(arguments: argparse.Namespace, more: Sequence[str]) -> None:
    options = recipe.options_of(arguments, more)
    with recipe.built(options) as cli:
        device = recipe.device_of(cli)
    axes = {axis: measure_axis(axis, options, arguments) for axis in arguments.axes}
    print_json("growth", device, axes=axes)


def measure_axis(
    axis: str, options: Sequence[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure and print the points of an axis, and the power of its last doubling."""
    name, values = AXES[axis]
    print_row(axis, "step", "quartiles")
    points = []
    for value in values[: arguments.points]:
        with recipe.built([*options, f"--{name}={value}"]) as cli:
            loop = PlainLoop(cli)
            seconds = repeated(loop.step, arguments.steps, arguments.blocks, loop.device)
        print_row(f"{value:>10}", *milliseconds(seconds))
        points.append((value, seconds))
    power = last_power([(value, seconds.median) for value, seconds in points])
    print(f"  the last step grows with power {power:.2f} (1 is linear)")
    return {"points": points, "power": power}


def last_power(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope between the last two points (x, y) on logarithmic axes; NaN of one point."""
    if len(points) < 2:
        return math.nan
    (x_before, y_before), (x, y) = points[-2:]
    return math.log(y / y_before) / math.log(x / x_before)
