"""The fit finds the law that made the losses, and the best size."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from shakespeare_lm.errors import UserError
from shakespeare_lm.laboratory.scaling import (
    Law,
    Run,
    Scaling,
    describe,
    fit_scaling,
    scaling_chart,
)

pytest.importorskip("scipy", reason="needs the extra laboratory")

TRUE = Law(math.log(1.2), math.log(60.0), math.log(400.0), 0.4, 0.45)
SIZES, LENGTHS = (1e5, 3e5, 1e6, 3e6), (5e5, 2e6, 8e6, 3.2e7)


def runs_with(noise: float, repetitions: int = 2) -> list[Run]:
    random = np.random.default_rng(0)
    return [
        Run(size, length, TRUE.loss(size, length) * math.exp(random.normal(0, noise)))
        for size in SIZES for length in LENGTHS for _ in range(repetitions)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def scaling() -> Scaling:
    return fit_scaling(runs_with(0.002))


def test_the_published_law_gives_the_published_loss() -> None:
    chinchilla = Law(math.log(1.69), math.log(406.4), math.log(410.7), 0.34, 0.28)
    expected = 1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28  # Hoffmann et al., equation 10
    assert chinchilla.loss(70e9, 1.4e12) == pytest.approx(expected)


def test_without_noise_the_fit_is_the_law() -> None:
    law = fit_scaling(runs_with(0.0, repetitions=1)).law
    assert list(law) == pytest.approx(list(TRUE), rel=0.01)


def test_with_noise_the_law_is_in_the_intervals_which_are_narrow(scaling: Scaling) -> None:
    for index, name in enumerate(Law._fields):
        low, high = scaling.interval(lambda law, index=index: law[index])
        assert low < TRUE[index] < high, name
        assert high - low < 0.1 * abs(TRUE[index]) + 0.05, name


def test_an_outlier_hardly_moves_the_fit(scaling: Scaling) -> None:
    runs = runs_with(0.002)
    runs[5] = runs[5]._replace(loss=1.5 * runs[5].loss)
    assert fit_scaling(runs).law.beta == pytest.approx(scaling.law.beta, rel=0.03)


def test_no_size_is_better_than_the_best_for_its_flops(scaling: Scaling) -> None:
    best = scaling.law.best_weights(1e14)
    losses = [scaling.law.loss(n, 1e14 / (6 * n)) for n in (0.99 * best, best, 1.01 * best)]
    assert min(losses) == losses[1]
    low, high = scaling.interval(lambda law: law.best_weights(1e14))
    assert low < TRUE.best_weights(1e14) < high


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        (runs_with(0.0)[:7], "7 runs of 1 sizes and 4 numbers"),
        (runs_with(0.0)[:16], "16 runs of 2 sizes and 4 numbers"),
        ([run for run in runs_with(0.0) if run.characters == 5e5], "8 runs of 4 sizes and 1 num"),
    ],
)
def test_too_few_runs_sizes_or_lengths_are_refused(runs: list[Run], found: str) -> None:
    with pytest.raises(UserError, match=rf"{found}.*: expected at least 8, 3 and 2"):
        fit_scaling(runs)


def test_the_chart_and_the_text_have_every_size_and_the_fit(scaling: Scaling) -> None:
    runs = runs_with(0.002)
    figure = ElementTree.fromstring(scaling_chart(runs, scaling))
    dots = [path.get("d", "").count("M") for path in figure.findall("svg/path")]
    assert dots == [8, 8, 8, 8]
    assert len(figure.findall("svg/g[@class='thin']/polyline")) == len(SIZES)
    names = ["".join(item.itertext()) for item in figure.findall("ul/li")]
    assert names == ["100k weights", "300k weights", "1M weights", "3M weights"]
    text = describe(runs, scaling)
    assert f"  alpha  {scaling.law.alpha:7.4f}  " in text
    assert "\n5.8e+14      2.3M  2.2M to 2.39M\n" in text  # 6 * 3e6 * 3.2e7 FLOPs
