"""The factor of the learning rate at each step."""

import math
from pathlib import Path

import pytest

from shakespeare_lm.training.optimizer import OptimizerConfig, Schedule
from shakespeare_lm.training.schedule import learning_rate_factor
from tests.conftest import Fit, logged


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


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--max_epochs=2", "--max_steps=-1"], 68),
        (["--max_epochs=2", "--max_steps=50"], 50),
        (["--max_epochs=2", "--limit_train_batches=6"], 12),
        (["--max_epochs=1", "--limit_train_batches=0.5"], 17),
        (["--max_epochs=1", "--accumulate_grad_batches=4"], 9),
    ],
)
def test_the_schedule_ends_with_the_run(tiny_fit: Fit, options: list[str], steps: int) -> None:
    cli = tiny_fit(*options, "--model.schedule=linear", "--model.warmup_steps=0")
    assert cli.trainer.global_step == steps
    rates = logged(Path("lightning_logs/version_0"), "learning_rate")
    assert rates[steps - 1] == pytest.approx(rates[0] / steps, rel=1e-5)
