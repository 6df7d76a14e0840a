"""A resumed run equals the uninterrupted one bit for bit; other data than its own are refused."""

from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.progress import Throughput
from tests.conftest import Fit, logged

# One epoch has 34 steps: 40 steps, validated every 6, cross its end.
OPTIONS = ["--max_steps=40", "--val_check_interval=6", "--model.dropout=0.2"]


class Killed(Exception):  # noqa: N818
    """Stands for anything that ends a process in the middle of a step."""


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
        (9, "--data.window_order=shifted"),
        pytest.param(35, "--data.window_order=shifted", marks=pytest.mark.slow),
        pytest.param(39, "--data.window_order=random", marks=pytest.mark.slow),
        pytest.param(15, "--limit_train_batches=6", marks=pytest.mark.slow),
        pytest.param(39, "--max_epochs=2", marks=pytest.mark.slow),
        pytest.param(15, "--model.optimizer=adamw", marks=pytest.mark.slow),
        (21, "--model.schedule=cosine"),
        pytest.param(21, "--precision=32-true", marks=pytest.mark.slow),
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


# The same characters as often: only their order differs.
TEXT = "To be, or not to be: that is the question.\n" * 60
OTHER_TEXT = "that is: the question. To be, or not to be\n" * 60


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.val_fraction=0.2", "trained with val_fraction 0.1, not 0.2"),
        ("--data.test_fraction=0.1", "trained with test_fraction 0.0, not 0.1"),
        ("--data.corpus=other.txt", "the checkpoint was trained on another text"),
    ],
)
def test_resuming_on_another_text_or_split_is_refused(
    tiny_fit: Fit, option: str, message: str
) -> None:
    assert len(TEXT) == len(OTHER_TEXT)
    assert set(TEXT) == set(OTHER_TEXT)
    Path("text.txt").write_text(TEXT)
    Path("other.txt").write_text(OTHER_TEXT)
    # Batches this large make one batch of every split: the loader's state would fit.
    options = ["--data.corpus=text.txt", "--data.batch_size=512", "--model.decay_steps=4"]
    path = tiny_fit(*options, "--max_steps=2").last.path
    saved = path.read_bytes()
    advice = "; resume with the --data options of the first run"
    with pytest.raises(UserError, match=f"cannot resume: .*{message}{advice}"):
        tiny_fit(*options, "--max_steps=4", option, "--ckpt_path=last")
    assert path.read_bytes() == saved
    assert tiny_fit(*options, "--max_steps=4", "--ckpt_path=last").trainer.global_step == 4


def test_resuming_a_checkpoint_without_a_fingerprint_says_so(tiny_fit: Fit) -> None:
    last = tiny_fit("--max_steps=2", "--model.decay_steps=4").last.path
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["ShakespeareDataModule"]  # as an older version wrote it
    torch.save(checkpoint, last)
    with pytest.warns(UserWarning, match="no fingerprint of its text and split"):
        resumed = tiny_fit("--max_steps=4", "--model.decay_steps=4", "--ckpt_path=last")
    assert resumed.trainer.global_step == 4
