"""Objectives: what they get to see, that their parameters are trained, and that a run with one of
its own can be resumed.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.methods.objective import Objective, Preparation, TrainingStep
from shakespeare_lm.training.module import ShakespeareLM

SIZES = {
    "context_length": 16, "num_layers": 1, "num_heads": 2, "d_model": 8,
    "learning_rate": 0.01, "decay_steps": 8,
}  # fmt: skip


class Probe(Objective):
    """Reads from the hidden states which character is there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.read = nn.Linear(network.config.d_model, network.vocab_size)
        self.steps: list[TrainingStep] = []
        self.calls: list[object] = []

    def load(self, read: Any, tokenizer: CharTokenizer) -> None:
        self.calls.append(("load", tokenizer.vocabulary))

    def prepare(self, preparation: Preparation) -> None:
        text = preparation.training_part()
        self.calls.append(("prepare", preparation.device, len(text.ids), preparation.network))

    def forward(self, loss: Tensor, step: TrainingStep) -> Tensor:
        self.steps.append(step)
        mask = step.batch.target_mask
        read = self.read(step.hidden[mask])
        return loss + nn.functional.cross_entropy(read, step.batch.inputs[mask])


class Constant(Objective):
    """Adds the same to every loss."""

    def forward(self, loss: Tensor, step: TrainingStep) -> Tensor:
        return loss * 2 + 1


class Probed(ShakespeareLM):
    def __init__(self, vocabulary: str, **options: Any) -> None:
        super().__init__(vocabulary, **options)
        self.objectives["probe"] = Probe(self.network)


def data() -> ShakespeareDataModule:
    made = ShakespeareDataModule("sample", context_length=16, batch_size=16)
    made.setup()
    return made


class SaveAfterTwoSteps(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


def trained(module: ShakespeareLM, folder: Path, steps: int, **options: Any) -> None:
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, limit_val_batches=0,
        callbacks=[SaveAfterTwoSteps(folder / "two.ckpt")], **dict.fromkeys(quiet, False),
    )  # fmt: skip
    trainer.fit(module, datamodule=data(), **options)


def probed() -> Probed:
    torch.manual_seed(0)
    return Probed(data().vocabulary, **SIZES)


def test_an_objective_of_ones_own_is_trained_with_the_network(tmp_path: Path) -> None:
    module = probed()
    probe = module.objectives["probe"]
    before = {name: tensor.clone() for name, tensor in module.named_parameters()}
    trained(module, tmp_path, 2)
    assert all(not torch.equal(before[n], p) for n, p in module.named_parameters())
    part = data().encoded["train"]
    assert probe.calls == [
        ("load", module.tokenizer.vocabulary),
        ("prepare", torch.device("cpu"), len(part.ids), module.network),
    ]


def test_it_sees_the_batch_the_hidden_states_the_logits_and_the_schedule(tmp_path: Path) -> None:
    module = probed()
    trained(module, tmp_path, 2)
    first, second = module.objectives["probe"].steps
    assert (first.schedule, second.schedule) == (1.0, pytest.approx(7 / 8))
    for step in (first, second):
        assert step.hidden.shape == (16, 16, 8)
        assert step.logits.shape == (16, 16, module.tokenizer.vocab_size)
        assert step.batch.inputs.shape == (16, 16)
    assert not torch.equal(first.batch.inputs, second.batch.inputs)
    torch.manual_seed(0)
    fresh = Probed(data().vocabulary, **SIZES)
    hidden, logits = fresh.network(first.batch.inputs, with_hidden=True)
    torch.testing.assert_close((first.hidden, first.logits), (hidden, logits))


def test_a_run_with_it_is_resumed_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, first, resumed = probed(), probed(), probed()
    trained(whole, tmp_path, 4)
    path = tmp_path / "two.ckpt"
    trained(first, tmp_path, 2)
    trained(resumed, tmp_path, 4, ckpt_path=path, weights_only=True)
    states = [module.state_dict() for module in (whole, resumed)]
    assert "objectives.probe.read.weight" in states[0]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    # The network does not contain it.
    assert not any("probe" in name for name in read_checkpoint(path).weights)


def test_objectives_change_the_loss_one_after_the_other(tmp_path: Path) -> None:
    module = probed()
    module.objectives["last"] = Constant()
    losses: list[Tensor] = []
    original = module.training_step

    def training_step(*arguments: Any) -> Tensor:
        losses.append(original(*arguments))
        return losses[-1]

    module.training_step = training_step  # type: ignore[method-assign]
    trained(module, tmp_path, 1)
    (step,) = module.objectives["probe"].steps
    mask = step.batch.target_mask
    plain = nn.functional.cross_entropy(step.logits[mask], step.batch.targets[mask])
    torch.manual_seed(0)
    of_probe = Probed(data().vocabulary, **SIZES).objectives["probe"](plain, step)
    torch.testing.assert_close(losses[0], 2 * of_probe + 1)


def test_an_objective_that_defines_nothing_says_so() -> None:
    with pytest.raises(NotImplementedError):
        Objective()(torch.zeros(()), None)
