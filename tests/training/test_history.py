"""Which validation was the best, and whether the model overfitted after it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from shakespeare_lm.errors import UserError
from shakespeare_lm.training.history import Validation, ValidationHistory
from tests.conftest import Fit, logged


def history(*validations: tuple[int, float, float]) -> ValidationHistory:
    result = ValidationHistory()
    result.validations = [Validation(*one) for one in validations]
    return result


def test_overfitting_is_a_rising_val_loss_and_a_falling_train_loss() -> None:
    losses = history((100, 2.0, 2.0), (1600, 1.5, 1.4), (2000, 1.52, 1.3))
    best = losses.find(1.5)
    assert best is not None
    assert losses.overfitting(best) == (
        "overfitting since step 1,600: val_loss rose from 1.5000 to 1.5200, while train_eval_loss "
        "fell from 1.4000 to 1.3000"
    )


@pytest.mark.parametrize(
    "validations",
    [
        [(100, 2.0, 2.0)],
        [(100, 2.0, 2.0), (200, 1.9, 1.9)],
        [(100, 2.0, 2.0), (200, 2.009, 1.9)],  # noise
        [(100, 2.0, 2.0), (200, 2.1, 2.1)],  # a step that was too large
    ],
)
def test_anything_else_is_not(validations: list[tuple[int, float, float]]) -> None:
    losses = history(*validations)
    best = losses.find(min(loss for _, loss, _ in validations))
    assert best is not None
    assert losses.overfitting(best) is None


def test_a_loss_of_no_validation_is_not_found() -> None:
    assert history((100, 2.0, 2.0)).find(1.9) is None


def test_a_resumed_run_knows_the_validations_before_it(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=4", "--val_check_interval=2", "--model.decay_steps=6")
    cli = tiny_fit("--max_steps=6", "--ckpt_path=last", "--val_check_interval=2",
                   "--model.decay_steps=6")  # fmt: skip
    assert [one.step for one in cli.history.validations] == [2, 4, 6]
    curve = logged(Path("lightning_logs/version_0"), "val_loss")
    assert [one.val_loss for one in cli.history.validations] == list(curve.values())


def test_only_the_newest_and_the_best_before_them_are_remembered() -> None:
    losses = ValidationHistory()
    for step in range(1, 101):
        metrics = {"val_loss": abs(step - 30) + 1.0, "train_eval_loss": 1.0}
        trainer = SimpleNamespace(
            sanity_checking=False, state=SimpleNamespace(fn="fit"), global_step=step,
            callback_metrics=metrics,
        )  # fmt: skip
        losses.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert [one.step for one in losses.validations] == [30, *range(91, 101)]


@pytest.mark.parametrize("state", [None, "x", [[1, 2.0]], [["1", 2.0, 2.0]], [1]])
def test_a_crafted_history_is_refused(state: object) -> None:
    with pytest.raises(UserError, match="invalid history of validations in the checkpoint"):
        ValidationHistory().load_state_dict({"validations": state})
