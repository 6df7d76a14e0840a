"""What a run prints about itself at its start and its end."""

import math
import shlex
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from shakespeare_lm.training.history import Validation, ValidationHistory
from shakespeare_lm.training.summary import print_resume_command, print_resuming, print_summary
from tests.conftest import Fit

RUN = Path("lightning_logs/version_0")


def checkpoint_with(loss: float | None, path: Path) -> ModelCheckpoint:
    best = ModelCheckpoint(monitor="val_loss")
    best.best_model_path = str(path)
    best.best_model_score = None if loss is None else torch.tensor(loss)
    return best


def commands(output: str) -> list[list[str]]:
    """Return the words of each command in the output, as a shell would see them."""
    return [shlex.split(line) for line in output.splitlines() if line.startswith("  ")]


@pytest.mark.parametrize(
    ("test_fraction", "sizes"),
    [(0.2, "1,470 train, 210 val, 420 test"), (0.0, "1,890 train, 210 val")],
)
def test_the_start_names_parameters_device_and_the_characters_of_each_part(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str], test_fraction: float, sizes: str
) -> None:
    Path("text.txt").write_text("To be, or not to be.\n" * 100)
    cli = tiny_fit(
        "--data.corpus=text.txt", f"--data.test_fraction={test_fraction}", "--max_steps=1"
    )
    first, *_ = capsys.readouterr().out.splitlines()
    parameters = sum(tensor.numel() for tensor in cli.model.parameters())
    where = f"cpu in {cli.trainer.precision}"
    assert first == f"{parameters:,} parameters on {where}; characters: {sizes}, 11 different"


def test_a_resumed_run_prints_its_checkpoint_and_whether_anything_is_left_to_do(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_fit("--max_steps=2", "--model.decay_steps=4")
    assert "resuming" not in capsys.readouterr().out
    for left in (True, False):
        tiny_fit("--max_steps=4", "--model.decay_steps=4", "--ckpt_path=last")
        output = capsys.readouterr().out
        step = 2 if left else 4
        assert f"resuming from {RUN / 'checkpoints' / 'last.ckpt'}, step {step}\n" in output
        assert (
            "max_steps is 4: nothing left to do; to train more, use --more_steps" in output
        ) != left


@pytest.mark.parametrize("max_steps", [-1, 1001])
def test_a_run_with_steps_left_or_no_limit_has_something_to_do(
    max_steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    print_resuming(Path("a.ckpt"), 1000, max_steps)
    assert capsys.readouterr().out == "resuming from a.ckpt, step 1,000\n"


def test_the_end_says_loss_bits_perplexity_and_what_to_type_next(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = float(tiny_fit("--max_steps=3").best.best_model_score)
    output = capsys.readouterr().out
    assert f"best val_loss {loss:.4f} nats per character" in output
    assert f"{loss / math.log(2):.4f} bits per character, perplexity {math.exp(loss):.3f}" in output
    assert "perplexity" in output
    assert ", at step 3\n" in output
    assert "tensorboard --logdir lightning_logs" in output
    assert f"shakespeare-lm complete --ckpt {RUN / 'checkpoints' / 'best.ckpt'}" in output


def test_a_model_that_overfits_is_told_since_when_and_what_to_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = ValidationHistory()
    history.validations = [Validation(475, 3.03, 2.0), Validation(950, 4.01, 1.0)]
    best = checkpoint_with(3.03, tmp_path / "checkpoints" / "best.ckpt")
    print_summary(best, history, "ab", logs=None)
    output = capsys.readouterr().out
    assert ", at step 475\noverfitting since step 475: val_loss rose" in output
    assert "; try more text, or --model.dropout 0.2\n" in output


def test_a_text_in_any_script_gets_a_command_that_works(
    tiny_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.txt").write_text("Жили-были дед да баба. " * 40, encoding="utf-8")
    tiny_fit("--data.corpus=text.txt", "--max_steps=2")
    assert capsys.readouterr().out.rstrip().endswith("best.ckpt")


def test_the_suggested_prompt_has_only_characters_of_the_vocabulary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = checkpoint_with(1.0, tmp_path / "checkpoints" / "best.ckpt")
    for vocabulary, suffix in (("EMOR:", ["--prompt", "ROMEO:"]), ("EMOR", [])):
        print_summary(best, ValidationHistory(), vocabulary, logs=None)
        (complete,) = commands(capsys.readouterr().out)
        assert complete[4:] == suffix


def test_without_a_best_checkpoint_there_is_no_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(checkpoint_with(None, tmp_path), ValidationHistory(), "ab", logs=tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("inside", [True, False])
def test_paths_are_printed_as_a_shell_reads_them_from_here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inside: bool,
) -> None:
    here = tmp_path if inside else tmp_path / "elsewhere"
    here.mkdir(exist_ok=True)
    monkeypatch.chdir(here)
    run = tmp_path / "my runs" / "lightning_logs" / "version_0"
    last = run / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    best = checkpoint_with(1.0, last.with_name("best.ckpt"))
    print_summary(best, ValidationHistory(), "ab", logs=run.parent)
    print_resume_command(last, 1234)
    output = capsys.readouterr().out
    assert "Stopped at step 1,234. To resume:\n" in output
    shown = Path("my runs/lightning_logs") if inside else run.parent
    checkpoints = shown / "version_0" / "checkpoints"
    assert commands(output) == [
        ["tensorboard", "--logdir", str(shown)],
        ["shakespeare-lm", "complete", "--ckpt", str(checkpoints / "best.ckpt")],
        ["shakespeare-lm", "fit", "--ckpt_path", str(shown / "version_0")],
    ]


def test_a_run_without_a_last_checkpoint_prints_no_command_to_resume_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_resume_command(tmp_path / "last.ckpt", 3)
    assert capsys.readouterr().out == ""


def test_a_run_that_stops_early_says_why(tiny_fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    stop = ["--callbacks=EarlyStopping", "--callbacks.monitor=val_loss"]
    tiny_fit("--max_steps=20", "--val_check_interval=2", *stop, "--callbacks.patience=1",
             "--callbacks.min_delta=10")  # fmt: skip
    assert "Stopped early: Monitored metric val_loss did not improve" in capsys.readouterr().out
