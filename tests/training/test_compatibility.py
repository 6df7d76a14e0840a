"""A model and other data, or a checkpoint and another run: differences are named."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shakespeare_lm.checkpoint.reading import ADDED_OPTIONS
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.compatibility import check_hyperparameters, check_processes
from shakespeare_lm.training.module import ShakespeareLM
from tests.training.conftest import trainer

SMALL = {"num_layers": 1, "num_heads": 2, "d_model": 16, "context_length": 8}


def test_data_in_which_ids_stand_for_other_characters_is_refused(tmp_path):
    (tmp_path / "other.txt").write_text("abd" * 40)
    data = ShakespeareDataModule(str(tmp_path / "other.txt"), context_length=8, batch_size=2)
    module = ShakespeareLM("abc", **SMALL)
    with pytest.raises(UserError, match="id 2 is 'c' for the model and 'd' in the data"):
        trainer().validate(module, data, verbose=False)
    with pytest.raises(UserError, match="id 3 is 'e' for the model and 'nothing' in the data"):
        trainer().validate(ShakespeareLM("abde", **SMALL), data, verbose=False)


def test_options_that_a_resumed_run_would_ignore_are_compared():
    ours = dict(ShakespeareLM("abc", **SMALL).hparams)
    check_hyperparameters(ours, ours)
    check_hyperparameters({**ours, "schedule": "cosine"}, ours)  # takes effect on resume
    for name, value in (("d_model", 32), ("learning_rate", 0.5), ("seed", 2), ("beta2", 0.5)):
        with pytest.raises(UserError, match=f"trained with {name} {value}, but this run has"):
            check_hyperparameters({**ours, name: value}, ours)
    with pytest.raises(UserError, match="the checkpoint's vocabulary differs"):
        check_hyperparameters({**ours, "vocabulary": "abd"}, ours)
    # Options younger than the checkpoint had no effect in it.
    old = {name: value for name, value in ours.items() if name not in ADDED_OPTIONS}
    check_hyperparameters(old, ours)
    with pytest.raises(UserError, match="trained with memory_order 0, but this run has 2"):
        check_hyperparameters(old, {**ours, "memory_order": 2})


def test_processes_that_found_different_checkpoints_all_refuse_to_resume():
    def process(of_the_first: str, others_agree: bool) -> Any:
        strategy = SimpleNamespace(
            broadcast=lambda _: of_the_first,
            reduce_boolean_decision=lambda decision: decision and others_agree,
        )
        return SimpleNamespace(world_size=2, ckpt_path="a/last.ckpt", strategy=strategy)

    check_processes(None, {})
    same, other = (f"{Path('a/last.ckpt').resolve()} {step}" for step in (5, 6))
    check_processes(process(same, True), {"global_step": 5})
    for disagreeing in (process(other, True), process(same, False)):
        with pytest.raises(UserError, match="the processes found different checkpoints to resume"):
            check_processes(disagreeing, {"global_step": 5})
