"""The schedule of the learning rate ends with the run, whichever limit ends it."""

from pathlib import Path

import pytest

from tests.conftest import Fit, logged


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
