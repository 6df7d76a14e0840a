"""How long a step takes: blocks of steps, timed with the device idle before and after.

Enters: something to do. Leaves: seconds per step, and of several blocks a median with quartiles.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Spread(NamedTuple):
    """The middle of several measured values, and the middle half of them."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Spread":
        return Spread(*(factor * value for value in self))


def spread_of(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles; a single value stands for all three."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio_of(values: Sequence[float], others: Sequence[float]) -> Spread:
    """Return the spread of value / other, each pair from one round.

    What disturbs the machine for longer than a round disturbs both, and drops out.
    """
    return spread_of([value / other for value, other in zip(values, others, strict=True)])


def now(device: torch.device) -> float:
    """Return the time in seconds at which the device has done all that it was asked to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def seconds_per_step(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Return the mean duration of a step within one block of steps."""
    start = now(device)
    for _ in range(steps):
        step()
    return (now(device) - start) / steps


def repeated(
    step: Callable[[], object], steps: int, repeats: int, device: torch.device, warm_up: int = 2
) -> Spread:
    """Return seconds per step over several blocks, after a warm-up."""
    for _ in range(warm_up):
        step()
    return spread_of([seconds_per_step(step, steps, device) for _ in range(repeats)])
