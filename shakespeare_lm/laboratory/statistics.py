"""What pairs of runs say about two variants: both runs of a pair have one seed, so they began with
the same weights and saw the same windows, and what a seed does to both cancels out.
"""

import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shakespeare_lm.errors import import_extra

LEVEL = 0.05  # of the tests; intervals have a confidence of 1 - LEVEL
_MAX_SEEDS = 10_000
_DIGITS = 12  # what is smaller is rounding of the subtraction, not a spread


@dataclass(frozen=True)
class Difference:
    """How a variant's losses differ from the baseline's: below 0 it is better."""

    pairs: int  # seeds that both have
    mean: float  # nats per character
    deviation: float | None  # sample standard deviation; this and the rest are None for one pair
    interval: tuple[float, float] | None  # 95 %, by Student's t
    p: float | None  # two-sided


def paired_difference(
    baseline: Mapping[int, float], variant: Mapping[int, float]
) -> Difference | None:
    """Compare losses by seed, over the seeds that both have; return None without any.

    Differences without a spread make an interval of length 0: p is 1 for identical losses, else 0.
    """
    seeds = sorted(baseline.keys() & variant.keys())
    differences = [round(variant[seed] - baseline[seed], _DIGITS) for seed in seeds]
    if len(seeds) < 2:
        return Difference(1, differences[0], None, None, None) if seeds else None
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if deviation == 0:
        return Difference(len(seeds), mean, 0.0, (mean, mean), float(mean == 0))
    test = _stats().ttest_1samp(differences, 0)  # the paired t-test
    low, high = test.confidence_interval(1 - LEVEL)
    return Difference(len(seeds), mean, deviation, (float(low), float(high)), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for several tests at once (Holm 1979): the chance of any false
    alarm among those below a level is at most that level.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seeds_needed(
    deviation: float, difference: float, level: float = LEVEL, power: float = 0.8
) -> int:
    """Return how many paired seeds, from 2 to 10,000, find a true mean difference of this size at
    the level with a probability of `power`, if the differences have this standard deviation.
    """
    if deviation == 0:
        return 2
    stats, squared_effect = _stats(), min(abs(difference) / deviation, 1e3) ** 2

    def power_of(seeds: int) -> float:
        """The square of a noncentral t is a noncentral F, whose upper tail has both sides."""
        critical = stats.f.isf(level, 1, seeds - 1)
        return float(stats.ncf.sf(critical, 1, seeds - 1, seeds * squared_effect))

    return 2 + bisect_left(range(2, _MAX_SEEDS), power, key=power_of)


def _stats() -> Any:
    return import_extra("scipy.stats", "laboratory", "comparing runs")
