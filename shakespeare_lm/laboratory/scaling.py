"""Runs of several sizes and lengths -> how the loss depends on weights and characters: approach 3
of Hoffmann et al. 2022 (arXiv 2203.15556).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from operator import ge, itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shakespeare_lm.errors import UserError, import_extra
from shakespeare_lm.evaluation.line_chart import Line, axis, line_chart
from shakespeare_lm.laboratory.tables import short

_MINIMUM = (8, 3, 2)  # runs, sizes, numbers of characters
_HUBER = 1e-3  # of the logarithm of the loss: larger residuals count linearly (the paper's choice)
_RESAMPLES = 200
_SHARES, _EXPONENTS = (0.2, 0.5, 0.8), (0.1, 0.3, 0.6, 1.2)  # of the starts
# Of the logarithms of the three terms in the middle of the runs, and of the exponents. The loss
# falls, and the best size of a resample that does not show how fast is still a finite number.
_BOUNDS = [(-10.0, 5.0)] * 3 + [(0.05, 5.0)] * 2


class Run(NamedTuple):
    """What the fit needs to know of a run."""

    weights: float
    characters: float  # trained on, repetitions included
    loss: float  # nats per character


class Law(NamedTuple):
    """loss = exp(log_e) + exp(log_a) / weights**alpha + exp(log_b) / characters**beta."""

    log_e: float
    log_a: float
    log_b: float
    alpha: float
    beta: float

    def loss(self, weights: float, characters: float) -> float:
        """Return the predicted loss in nats per character."""
        of_weights = self.log_a - self.alpha * math.log(weights)
        of_characters = self.log_b - self.beta * math.log(characters)
        return sum(map(math.exp, (self.log_e, of_weights, of_characters)))

    def best_weights(self, flops: float, flops_per_weight: float = 6.0) -> float:
        """Return the size with the lowest loss for so many FLOPs, of which every weight takes
        `flops_per_weight` for each character (equation 4 of the paper).
        """
        ratio = self.log_a - self.log_b + math.log(self.alpha / self.beta)
        total = self.beta * math.log(flops / flops_per_weight)
        return math.exp((ratio + total) / (self.alpha + self.beta))


class Scaling(NamedTuple):
    """The law that fits the runs best, and those that fit resamples of them best."""

    law: Law
    resamples: list[Law]

    def interval(self, of: Callable[[Law], float]) -> tuple[float, float]:
        """Return between which values of `of` the middle 95 % of the resamples are."""
        low, high = np.quantile([of(law) for law in self.resamples], (0.025, 0.975))
        return float(low), float(high)


def fit_scaling(runs: Sequence[Run], seed: int = 0) -> Scaling:
    """Fit the law to all runs, and to bootstrap resamples of them, which `seed` draws.

    Raises a `UserError` if there are too few runs, sizes or numbers of characters.
    """
    if not _is_enough(runs):
        raise UserError(
            "{} runs of {} sizes and {} numbers of characters: ".format(*_counts(runs))
            + "expected at least {}, {} and {}".format(*_MINIMUM)
        )
    law, random = _fit(runs, _starts(runs)), np.random.default_rng(seed)
    resamples: list[Law] = []
    while len(resamples) < _RESAMPLES:
        sample = [runs[index] for index in random.integers(len(runs), size=len(runs))]
        if _is_enough(sample):
            resamples.append(_fit(sample, [law]))
    return Scaling(law, resamples)


def _is_enough(runs: Sequence[Run]) -> bool:
    return all(map(ge, _counts(runs), _MINIMUM))


def _counts(runs: Sequence[Run]) -> tuple[int, int, int]:
    return len(runs), len({run.weights for run in runs}), len({run.characters for run in runs})


def _starts(runs: Sequence[Run]) -> list[Law]:
    """Return laws that are right for a run in the middle of all."""
    weights, characters, loss = np.log(runs).mean(axis=0)
    starts = []
    for share, alpha, beta in product(_SHARES, _EXPONENTS, _EXPONENTS):
        half = loss + math.log((1 - share) / 2)
        log_a, log_b = half + alpha * weights, half + beta * characters
        starts.append(Law(loss + math.log(share), log_a, log_b, alpha, beta))
    return starts


def _fit(runs: Sequence[Run], starts: Sequence[Law]) -> Law:
    """Return the law with the lowest Huber loss that L-BFGS finds from the starts."""
    weights, characters, losses = np.log(runs).T
    # Relative to the middle, a factor and its exponent hardly depend on each other.
    middle = np.array([0.0, weights.mean(), characters.mean()])
    columns = np.stack([np.zeros_like(losses), weights - middle[1], characters - middle[2]])

    def huber(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the sum over the runs in units of the threshold squared, and its gradient."""
        exponents = np.array([0.0, *parameters[3:]])
        terms = parameters[:3, None] - exponents[:, None] * columns
        predicted = np.logaddexp.reduce(terms)
        residual = (predicted - losses) / _HUBER
        slope = np.clip(residual, -1, 1)
        of_terms = np.exp(terms - predicted) * slope / _HUBER
        gradient = [*of_terms.sum(axis=1), *-(of_terms * columns).sum(axis=1)[1:]]
        return float((slope * (residual - slope / 2)).sum()), np.array(gradient)

    def shifted(law: Sequence[float], sign: int) -> Law:
        factors = np.array(law[:3]) + sign * np.array([0.0, *law[3:]]) * middle
        return Law(*factors.tolist(), *map(float, law[3:]))

    minimize: Any = import_extra("scipy.optimize", "laboratory", "fitting a scaling law").minimize
    found = [
        minimize(huber, shifted(start, -1), jac=True, method="L-BFGS-B", bounds=_BOUNDS,
                 options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13})
        for start in starts
    ]  # fmt: skip
    return shifted(min(found, key=lambda result: result.fun).x, 1)


def describe(runs: Sequence[Run], scaling: Scaling) -> str:
    """Return the law as text, and the best sizes for the FLOPs of the longest run and around."""
    lines = [
        f"loss = E + A / weights^alpha + B / characters^beta, fitted to {len(runs)} runs",
        f"(intervals hold 95 % of {len(scaling.resamples)} bootstrap resamples)\n",
    ]
    for index, name in enumerate(("log E", "log A", "log B", "alpha", "beta")):
        low, high = scaling.interval(itemgetter(index))
        lines.append(f"{name:>7}  {scaling.law[index]:7.4f}  {low:.4f} to {high:.4f}")
    lines.append("\n  FLOPs  best number of weights, with 6 FLOPs for each weight and character")
    most = max(6 * run.weights * run.characters for run in runs)
    for flops in (most / 10, most, 10 * most):
        best = scaling.law.best_weights(flops)
        low, high = scaling.interval(partial(Law.best_weights, flops=flops))
        lines.append(f"{flops:7.1e}  {short(best):>8}  {short(low)} to {short(high)}")
    return "\n".join(lines)


def scaling_chart(runs: Sequence[Run], scaling: Scaling) -> str:
    """Return a chart of the losses by characters, as HTML: dots for each size, and thin lines for
    the fit.
    """
    lines = []
    x = axis("millions of characters", [run.characters / 1e6 for run in runs], doubling=True)
    for size in sorted({run.weights for run in runs}):
        points = sorted((run.characters / 1e6, run.loss) for run in runs if run.weights == size)
        ends = np.geomspace(points[0][0], points[-1][0], 40)
        thin = [(across, scaling.law.loss(size, across * 1e6)) for across in ends]
        lines.append(Line(f"{short(size)} weights", points, dots=True, thin=thin))
    y = axis("", [down for line in lines for _, down in (*line.points, *line.thin)])
    return line_chart("Nats per character by characters seen", x, y, lines)
