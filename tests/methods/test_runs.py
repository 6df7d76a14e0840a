"""What holds for every method: a run with it can be resumed, its losses stay those of the text, and
it needs a text.
"""

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Fit, logged

NETWORKS = {
    "read_memory": {"memory_order": 3},
    "mixed_memory": {"memory_order": 3, "memory_share": 0.2},
}
OBJECTIVES = {
    "ngram_teacher": {"ngram_distillation": 0.5},
    "network_teachers": {"distillation": 0.7, "teachers": "lightning_logs/a, lightning_logs/b"},
    "multi_token": {"characters_ahead": 2},
}
METHODS = {**NETWORKS, **OBJECTIVES}


def arguments(tiny_fit: Fit, options: dict[str, object]) -> list[str]:
    """Return the command line, after training the teachers in it."""
    for seed, name in enumerate("ab" if "teachers" in options else ""):
        tiny_fit("--max_steps=3", f"--seed_everything={seed}", f"--name={name}")
    return [f"--model.{name}={value}" for name, value in options.items()]


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_a_resumed_run_is_the_uninterrupted_one(tiny_fit: Fit, options: dict) -> None:
    given = arguments(tiny_fit, {**options, "decay_steps": 6})
    whole = tiny_fit(*given, "--max_steps=6", "--val_check_interval=3").model.state_dict()
    tiny_fit(*given, "--max_steps=3", "--val_check_interval=3")
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=6").model.state_dict()
    assert not differing(whole, resumed)


@pytest.mark.parametrize("options", OBJECTIVES.values(), ids=OBJECTIVES)
def test_it_changes_what_is_learned_but_not_what_is_logged_and_saved(
    tiny_fit: Fit, options: dict
) -> None:
    first_losses, weights = [], []
    for name, given in (("plain", []), ("taught", arguments(tiny_fit, options))):
        cli = tiny_fit("--max_steps=2", "--model.warmup_steps=0", f"--name={name}", *given)
        losses = logged(f"lightning_logs/{name}/version_0", "train_loss")
        first_losses.append(losses[min(losses)])
        weights.append(read_checkpoint(cli.best.best_model_path).weights)
    assert first_losses[0] == first_losses[1]  # on the text alone, before the first step
    assert differing(*weights)


@pytest.mark.parametrize("options", [{"memory_order": 2}, {"ngram_distillation": 0.1}])
def test_what_counts_the_text_needs_the_data_module_when_training_starts(options: dict) -> None:
    module = ShakespeareLM("ab", num_layers=1, num_heads=1, d_model=4, **options)
    module._trainer = Trainer(logger=False, enable_checkpointing=False)
    module.setup("validate")  # a memory has been filled by a checkpoint
    with pytest.raises(UserError, match="need a ShakespeareDataModule"):
        module.setup("fit")
