"""A model and other data, or a checkpoint and another run: differences are named."""

from pathlib import Path

import pytest
from pytorch_lightning import Trainer

from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.compatibility import check_hyperparameters
from shakespeare_lm.training.module import ShakespeareLM

SMALL = {"num_layers": 1, "num_heads": 2, "d_model": 16, "context_length": 8}


def trainer() -> Trainer:
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    return Trainer(accelerator="cpu", **dict.fromkeys(quiet, False))


def test_data_in_which_ids_stand_for_other_characters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("abd" * 40)
    data = ShakespeareDataModule(str(tmp_path / "other.txt"), context_length=8, batch_size=2)
    module = ShakespeareLM("abc", **SMALL)
    with pytest.raises(UserError, match="id 2 is 'c' for the model and 'd' in the data"):
        trainer().validate(module, data, verbose=False)
    with pytest.raises(UserError, match="id 3 is 'e' for the model and 'nothing' in the data"):
        trainer().validate(ShakespeareLM("abde", **SMALL), data, verbose=False)


def test_options_that_a_resumed_run_would_ignore_are_compared() -> None:
    ours = dict(ShakespeareLM("abc", **SMALL).hparams)
    check_hyperparameters(ours, ours)
    check_hyperparameters({**ours, "schedule": "cosine"}, ours)  # takes effect on resume
    for name, value in (("d_model", 32), ("learning_rate", 0.5), ("seed", 2), ("beta2", 0.5)):
        with pytest.raises(UserError, match=f"trained with {name} {value}, but this run has"):
            check_hyperparameters({**ours, name: value}, ours)
    with pytest.raises(UserError, match="the checkpoint's vocabulary differs"):
        check_hyperparameters({**ours, "vocabulary": "abd"}, ours)
