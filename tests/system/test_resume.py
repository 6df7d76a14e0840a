"""A run that is cut off and resumed is the run that never was."""

from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands.fit import ShakespeareCLI
from shakespeare_lm.training.progress import Throughput
from tests.conftest import Fit, logged

# One epoch has 34 steps: 40 steps, validated every 6, cross its end.
OPTIONS = ["--max_steps=40", "--val_check_interval=6", "--model.dropout=0.2"]


class Killed(Exception):  # noqa: N818
    """Stands for whatever ends a process in the middle of a step."""


def kill_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Throughput.on_train_batch_end

    def on_train_batch_end(self: Throughput, trainer, *arguments) -> None:
        if trainer.global_step == step:
            raise Killed
        original(self, trainer, *arguments)

    monkeypatch.setattr(Throughput, "on_train_batch_end", on_train_batch_end)


def weights(cli: ShakespeareCLI) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in cli.model.state_dict().items()}


def curves(run: str) -> dict[str, dict[int, float]]:
    names = ("train_loss", "val_loss", "train_eval_loss", "learning_rate", "gradient_norm")
    return {name: logged(Path(run), name) for name in names}


@pytest.mark.parametrize(
    ("killed_after", "option"),
    [
        (9, "--data.sampling=shifted"),
        (35, "--data.sampling=shifted"),
        (39, "--data.sampling=random"),
        (15, "--limit_train_batches=6"),
        (39, "--max_epochs=2"),
        (15, "--model.optimizer=adamw"),
        (21, "--model.schedule=cosine"),
        (21, "--precision=32-true"),
        (11, "--accumulate_grad_batches=4"),
    ],
)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, killed_after: int, option: str
) -> None:
    options = [*OPTIONS, option]
    whole = tiny_fit(*options, "--default_root_dir=whole")
    with monkeypatch.context() as patch:
        kill_after(killed_after, patch)
        with pytest.raises(Killed):
            tiny_fit(*options, "--default_root_dir=cut")
    resumed = tiny_fit(*options, "--default_root_dir=cut", "--ckpt_path=last")

    assert resumed.trainer.global_step == 40
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert curves("cut/lightning_logs/version_0") == curves("whole/lightning_logs/version_0")
