"""Differences, intervals and adjusted p-values against published figures, and by simulation."""

import math

import numpy as np
import pytest

from shakespeare_lm.laboratory.statistics import Difference, holm, paired_difference, seeds_needed

pytest.importorskip("scipy", reason="needs the extra laboratory")

# Student's sleep data (1908): hours gained with each of two drugs by the same ten patients.
FIRST = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
SECOND = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))


def test_the_paired_difference_of_the_sleep_data_is_the_published_one() -> None:
    found = paired_difference(FIRST | {10: 9.9}, {-1: 9.9} | SECOND)  # in R: t = 4.0621, df = 9
    assert found is not None
    assert (found.pairs, found.mean) == (10, pytest.approx(1.58))
    assert found.deviation == pytest.approx(1.58 / 4.0621 * math.sqrt(10), rel=1e-4)
    assert found.interval == pytest.approx((0.7001142, 2.4598858))
    assert found.p == pytest.approx(0.002833, rel=1e-3)


def test_one_pair_has_no_interval_and_identical_differences_have_no_spread() -> None:
    assert paired_difference({1: 1.5}, {2: 1.4}) is None
    assert paired_difference({1: 1.5}, {1: 1.5, 2: 1.4}) == Difference(1, 0.0, None, None, None)
    losses = {1: 1.5, 2: 1.6, 3: 1.7}
    assert paired_difference(losses, losses) == Difference(3, 0.0, 0.0, (0.0, 0.0), 1.0)
    assert 1.6 - 1.5 != 1.7 - 1.6  # by rounding only
    worse = paired_difference(losses, {1: 1.6, 2: 1.7, 3: 1.8})
    assert worse is not None
    assert (worse.deviation, worse.p) == (0.0, 0.0)
    assert worse.interval == pytest.approx((0.1, 0.1))


def test_holm_adjusts_in_the_order_of_p_values_and_never_decreases() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@pytest.mark.parametrize(("effect", "seeds"), [(1.0, 10), (0.5, 34), (0.2, 199)])
def test_as_many_seeds_are_needed_as_power_tables_say(effect: float, seeds: int) -> None:
    assert seeds_needed(1.0, effect) == seeds  # G*Power 3.1: difference from a constant, two tails
    assert seeds_needed(0.001, -0.001 * effect) == seeds


def test_the_search_for_seeds_is_bounded() -> None:
    assert seeds_needed(1.0, 1e-9) == 10_000
    assert seeds_needed(1e-12, 1.0) == seeds_needed(0.0, 1.0) == 2
    assert seeds_needed(1.0, 1.0, level=0.01) > seeds_needed(1.0, 1.0) > seeds_needed(1.0, 2.0)


SEEDS = 5


def tolerance(repetitions: int) -> float:
    """Return three standard errors of a frequency of 5 %: one seed in 370 is a false alarm."""
    return 3 * math.sqrt(0.05 * 0.95 / repetitions)


def p_values_without_a_difference(variants: int, repetitions: int) -> list[list[float]]:
    """Return p-values of variants whose runs are draws from the baseline's distribution."""
    losses = np.random.default_rng(0).normal(1.47, 0.005, (repetitions, variants + 1, SEEDS))
    every = []
    for baseline, *others in losses.tolist():
        by_seed = dict(enumerate(baseline))
        found = [paired_difference(by_seed, dict(enumerate(one))) for one in others]
        assert all((one.p < 0.05) != (one.interval[0] <= 0 <= one.interval[1]) for one in found)
        every.append([one.p for one in found])
    return every


def test_without_a_difference_the_interval_covers_zero_in_95_of_100_repetitions() -> None:
    every = p_values_without_a_difference(1, 2000)
    alarms = sum(p < 0.05 for (p,) in every) / 2000
    assert alarms == pytest.approx(0.05, abs=tolerance(2000))


def test_six_equal_variants_make_a_false_alarm_in_at_most_5_of_100_repetitions() -> None:
    every = p_values_without_a_difference(6, 500)
    alarms = sum(min(holm(p_values)) < 0.05 for p_values in every)
    assert alarms / 500 <= 0.05 + tolerance(500)
    assert sum(min(p_values) < 0.05 for p_values in every) / 500 > 0.1  # without adjustment
