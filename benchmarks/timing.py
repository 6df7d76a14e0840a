"""Durations: blocks of steps, timed with the device idle before and after.

Enters: a function. Leaves: seconds per call, as the median and quartiles of several blocks.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Spread(NamedTuple):
    """The median of several values, and their lower and upper quartile."""

    median: float
    low: float
    high: float


def spread_of(values: Sequence[float]) -> Spread:
    """Return median and quartiles; a single value stands for all three."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio_of(values: Sequence[float], others: Sequence[float]) -> Spread:
    """Return the spread of value / other, pair by pair.

    Whatever slows the machine down for longer than a round slows down both, and cancels.
    """
    return spread_of([value / other for value, other in zip(values, others, strict=True)])


def now(device: torch.device) -> float:
    """Return the time in seconds, after the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def seconds_per_call(function: Callable[[], object], calls: int, device: torch.device) -> float:
    """Return the mean duration of a call within one block of calls."""
    start = now(device)
    for _ in range(calls):
        function()
    return (now(device) - start) / calls


def repeated(
    function: Callable[[], object], calls: int, blocks: int, device: torch.device, warm_up: int = 2
) -> Spread:
    """Return seconds per call over several blocks, after a warm-up."""
    for _ in range(warm_up):
        function()
    return spread_of([seconds_per_call(function, calls, device) for _ in range(blocks)])
