"""The factor of the learning rate at each step."""

import math

import pytest

from shakespeare_lm.training.optimizer import OptimizerConfig, Schedule
from shakespeare_lm.training.schedule import learning_rate_factor


def test_each_schedule_has_these_factors() -> None:
    def factors(schedule: Schedule) -> list[float]:
        config = OptimizerConfig(schedule=schedule, warmup_steps=2)
        return [learning_rate_factor(step, config, 6) for step in range(8)]

    half = math.sqrt(0.5)
    assert factors("constant") == [0.5, 1, 1, 1, 1, 1, 1, 1]
    assert factors("linear") == [0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert factors("cosine") == pytest.approx(
        [0.5, 1, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 0, 0]
    )


def test_without_warm_up_the_first_step_has_the_full_learning_rate() -> None:
    assert learning_rate_factor(0, OptimizerConfig(schedule="cosine"), 10) == 1.0


def test_a_restarted_schedule_falls_to_zero_twice_the_second_time_from_half() -> None:
    def factors(schedule: Schedule) -> list[float]:
        config = OptimizerConfig(schedule=schedule, warmup_steps=2, restart_step=4)
        return [learning_rate_factor(step, config, 6) for step in range(8)]

    assert factors("linear") == [0.5, 1, 1, 0.5, 0.5, 0.25, 0, 0]
    assert factors("cosine") == pytest.approx([0.5, 1, 1, 0.5, 0.5, 0.25, 0, 0])
    assert factors("constant") == [0.5, 1, 1, 1, 1, 1, 1, 1]
