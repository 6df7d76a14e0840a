"""What a run prints about itself at its start and its end, and whether the model overfitted."""

import math
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from shakespeare_lm.errors import UserError
from shakespeare_lm.training import summary
from shakespeare_lm.training.history import Validation, ValidationHistory
from tests.conftest import logged
from tests.training.conftest import RUN


def history(*validations: tuple[int, float, float]) -> ValidationHistory:
    result = ValidationHistory()
    result.validations = [Validation(*one) for one in validations]
    return result


def commands(output: str) -> list[list[str]]:
    """Return the words of each command in the output, as a shell would see them."""
    lines = [line for line in output.splitlines() if line.startswith("  ")]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ([], "no recipe, 3 steps"),
        (["--config=little", "--max_epochs=-1"], "recipe little, 3 steps"),
    ],
)
def test_the_start_names_recipe_steps_device_and_characters(tiny_fit, capsys, options, first):
    Path("text.txt").write_text("To be, or not to be.\n" * 100)
    cli = tiny_fit(*options, "--data.corpus=text.txt", "--data.test_fraction=0.2", "--max_steps=3")
    weights = sum(tensor.numel() for tensor in cli.model.network.parameters())
    assert capsys.readouterr().out.splitlines()[:3] == [
        first,
        f"{weights:,} weights on cpu in {cli.trainer.precision}",
        "characters: 1,470 train, 210 val, 420 test; 11 different",
    ]


def test_the_first_line_says_how_long_the_run_takes_as_soon_as_that_is_known(monkeypatch, capsys):
    clock = iter([10.0, 10.3, 10.6, 10.9, 12.0, 12.3])
    monkeypatch.setattr(summary.time, "perf_counter", lambda: next(clock))
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, max_steps=1250, max_epochs=-1,
                              precision="32-true", state=SimpleNamespace(fn="fit"))  # fmt: skip
    module = torch.nn.Linear(2, 3)
    module.device = torch.device("cpu")
    described = summary.RunDescription("default", " (none was named)")
    described.on_train_start(trainer)
    for _ in range(6):
        trainer.global_step += 1
        described.on_train_batch_end(trainer, module)
    assert capsys.readouterr().out.splitlines() == [
        "recipe default (none was named), 1,250 steps, about 10 min here",  # 0.5 s each
        "--config quick takes less than half of that, and ends 0.06 nats higher",
        "9 weights on cpu in 32-true",
    ]


def test_a_duration_has_the_unit_that_suits_it():
    shown = {1: "5 s", 68: "70 s", 100: "2 min", 1290: "22 min", 9000: "2.5 h"}
    assert {seconds: summary.duration(seconds) for seconds in shown} == shown


def test_a_resumed_run_says_so_and_knows_the_validations_before_it(tiny_fit, capsys):
    options = ("--val_check_interval=2", "--model.decay_steps=6")
    tiny_fit("--max_steps=4", *options)
    assert "resuming" not in capsys.readouterr().out
    cli = tiny_fit("--max_steps=6", *options, "--ckpt_path=last")
    assert f"resuming from {RUN / 'checkpoints/last.ckpt'}, step 4\n" in capsys.readouterr().out
    assert {one.step: one.val_loss for one in cli.history.validations} == logged(RUN, "val_loss")
    assert [*logged(RUN, "val_loss")] == [2, 4, 6]


def test_a_resumed_run_that_has_nothing_left_to_do_says_so(capsys):
    for max_steps, is_done in ((-1, False), (1001, False), (1000, True)):
        summary.print_resuming(Path("a.ckpt"), 1000, max_steps)
        output = capsys.readouterr().out
        assert output.startswith("resuming from a.ckpt, step 1,000\n")
        assert ("max_steps is 1,000: nothing left to do; to train more" in output) == is_done


def test_the_end_says_loss_bits_perplexity_and_what_to_type_next(tiny_fit, capsys):
    loss = float(tiny_fit("--max_steps=3").best.best_model_score)
    output = capsys.readouterr().out
    assert f"best val_loss {loss:.4f} nats per character, at step 3\n" in output
    assert (
        f"= {loss / math.log(2):.4f} bits per character, perplexity {math.exp(loss):.3f}" in output
    )
    assert commands(output)[-3:] == [
        ["shakespeare-lm", "page", "--ckpt", str(RUN)],
        ["tensorboard", "--logdir", "lightning_logs"],
        ["shakespeare-lm", "complete", "--ckpt", str(RUN), "--prompt", "ROMEO:"],
    ]
    tiny_fit("--max_steps=1", "--model.network=bigram", "--model.optimizer=adamw")
    assert "page" not in capsys.readouterr().out  # which holds transformers


@pytest.mark.parametrize(
    ("recipe", "on_cpu", "on_gpu"),
    [("default", "laptop", "gpu"), ("little", "laptop", "gpu"), ("laptop", "memory-laptop", "gpu"),
     ("memory", "memory-laptop", "gpu"), ("memory-laptop", "", "gpu"), ("gpu", "laptop", "")],
)  # fmt: skip
def test_the_next_better_recipe_fits_the_machine(monkeypatch, recipe, on_cpu, on_gpu):
    for better, devices in ((on_cpu, ["cpu"]), (on_gpu, ["cpu", "cuda"])):
        monkeypatch.setattr(summary, "available_accelerators", lambda devices=devices: devices)
        assert summary.better_recipe(recipe) == better


@pytest.mark.parametrize("inside", [True, False])
def test_paths_are_printed_as_a_shell_reads_them_from_here(tmp_path, monkeypatch, capsys, inside):
    here = tmp_path if inside else tmp_path / "elsewhere"
    here.mkdir(exist_ok=True)
    monkeypatch.chdir(here)
    run = tmp_path / "my runs" / "lightning_logs" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    summary.print_resume_command(run / "checkpoints/last.ckpt", 1234)
    assert capsys.readouterr().out == ""  # nothing was saved
    (run / "checkpoints/last.ckpt").touch()
    summary.print_resume_command(run / "checkpoints/last.ckpt", 1234)
    summary.print_next(run, "laptop", run.parent, "EMOR", has_page=False)
    output = capsys.readouterr().out
    assert "Stopped at step 1,234. To resume:\n" in output
    shown = Path("my runs/lightning_logs") if inside else run.parent
    assert commands(output) == [
        ["shakespeare-lm", "fit", "--ckpt_path", str(shown / "version_0")],
        ["shakespeare-lm", "fit", "--config", "laptop"],
        ["tensorboard", "--logdir", str(shown)],
        ["shakespeare-lm", "complete", "--ckpt", str(shown / "version_0")],
    ]


def test_overfitting_is_a_rising_val_loss_and_a_falling_train_loss(capsys):
    losses = history((100, 2.0, 2.0), (1600, 1.5, 1.4), (2000, 1.52, 1.3))
    best = ModelCheckpoint(monitor="val_loss")
    best.best_model_score, best.best_model_path = torch.tensor(1.5), "a.ckpt"
    summary.print_loss(best, losses, None)
    assert (
        "overfitting since step 1,600: val_loss rose from 1.5000 to 1.5200, while train_eval_loss "
        "fell from 1.4000 to 1.3000; try more text, or --model.dropout 0.2\n"
    ) in capsys.readouterr().out
    assert losses.find(1.9) is None


@pytest.mark.parametrize(
    "later",
    [
        [],
        [(200, 1.9, 1.9)],
        [(200, 2.009, 1.9)],  # noise
        [(200, 2.1, 2.1)],  # a step that was too large
    ],
)
def test_anything_else_is_not_overfitting(later):
    losses = history((100, 2.0, 2.0), *later)
    best = losses.find(min(one.val_loss for one in losses.validations))
    assert best is not None
    assert losses.overfitting(best) is None


def test_only_the_newest_validations_and_the_best_before_them_are_remembered():
    losses, state = ValidationHistory(), SimpleNamespace(fn="fit")
    for step in range(1, 101):
        metrics = {"val_loss": abs(step - 30) + 1.0, "train_eval_loss": 1.0}
        trainer = SimpleNamespace(global_step=step, callback_metrics=metrics, state=state)
        trainer.sanity_checking = False
        losses.on_validation_end(trainer, None)
    assert [one.step for one in losses.validations] == [30, *range(91, 101)]


@pytest.mark.parametrize("state", [None, "x", [[1, 2.0]], [["1", 2.0, 2.0]], [1]])
def test_a_crafted_history_is_refused(state):
    with pytest.raises(UserError, match="invalid history of validations in the checkpoint"):
        ValidationHistory().load_state_dict({"validations": state})
