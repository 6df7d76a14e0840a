"""When a run ends, what is saved then, and how it is resumed."""

import math
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Trainer

from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.progress import Throughput
from shakespeare_lm.training.stopping import StopOnSignal, Terminated
from tests.conftest import Fit, Main, logged

RUN = Path("lightning_logs/version_0")
BOTH = (signal.SIGINT, signal.SIGTERM)


def saved_step(name: str = "last") -> int:
    checkpoint = torch.load(RUN / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return int(checkpoint["global_step"])


def send_signal_after(
    step: int, monkeypatch: pytest.MonkeyPatch, number: int, times: int = 1
) -> None:
    """Make a run send itself a signal when it has taken so many steps."""
    original = Throughput.on_train_batch_end

    def on_train_batch_end(self: Throughput, trainer: Trainer, *arguments) -> None:
        original(self, trainer, *arguments)
        for _ in range(times if trainer.global_step == step else 0):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Throughput, "on_train_batch_end", on_train_batch_end)


def test_a_run_of_whole_epochs_is_validated_and_saved_at_its_end(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_epochs=1", "--max_steps=1000", "--val_check_interval=20")
    assert cli.trainer.global_step == saved_step() == 34
    assert set(logged(RUN, "val_loss")) == {19, 33}


def test_the_last_step_is_validated_and_saved(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=5", "--val_check_interval=3")
    assert set(logged(RUN, "val_loss")) == {2, 4}
    assert saved_step() == 5


@pytest.mark.parametrize("accumulate", [1, 4])
def test_curves_count_optimizer_steps_also_after_an_unscheduled_validation(
    tiny_fit: Fit, tiny_main: Main, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    options = ["--max_steps=6", "--val_check_interval=1000", "--sample.max_new_tokens=0"]
    options += [f"--accumulate_grad_batches={accumulate}"]
    with monkeypatch.context() as patch:
        send_signal_after(3, patch, signal.SIGINT)
        assert tiny_main(*options) == 130
    tiny_fit(*options, "--ckpt_path=last")
    assert set(logged(RUN, "train_loss")) == {0, 1, 2, 3, 4, 5}
    assert set(logged(RUN, "val_loss")) == {2, 5}


def test_a_validation_within_an_accumulated_step_is_logged_at_the_last_finished_step(
    tiny_fit: Fit,
) -> None:
    tiny_fit("--max_steps=6", "--val_check_interval=6", "--accumulate_grad_batches=4")
    # After 6, 12, 18 and 24 batches 1, 3, 4 and 6 steps are finished; the first is step 0.
    assert set(logged(RUN, "val_loss")) == {0, 2, 3, 5}


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_resume(
    tiny_fit: Fit,
    tiny_main: Main,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--max_steps=12", "--val_check_interval=5", "--model.dropout=0.2")
    # The command takes these from the default recipe; `tiny_fit` has none of its own accord.
    options += ("--model.ngram_distillation=0.5", "--model.characters_ahead=2")
    options += ("--model.previous_characters=4", "--model.zero_init=true")
    whole = tiny_fit(*options, "--default_root_dir=whole")
    with monkeypatch.context() as patch:
        send_signal_after(7, patch, signal.SIGINT)
        assert tiny_main(*options) == 130
    output = capsys.readouterr().out
    assert "Stopping after this step; press Ctrl-C again to stop at once." in output
    assert "Stopped at step 7. To resume:" in output
    assert f"python scripts/fit.py --ckpt_path {RUN}\n" in output

    resumed = tiny_fit(*options, "--ckpt_path=last")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    folder = Path("whole/lightning_logs/version_0")
    assert logged(RUN, "train_loss") == logged(folder, "train_loss")


def test_a_second_ctrl_c_stops_at_once(tiny_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    send_signal_after(1, monkeypatch, signal.SIGINT, times=2)
    try:
        assert tiny_main("--max_steps=5") == 130
        assert saved_step() == 0
    finally:  # Lightning leaves Ctrl-C switched off
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_save_the_step_without_a_validation(
    tiny_main: Main,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    send_signal_after(3, monkeypatch, number)
    assert tiny_main("--max_steps=9", "--val_check_interval=2") == 128 + number
    assert saved_step() == 3
    assert set(logged(RUN, "val_loss")) == {1}
    assert set(logged(RUN, "train_loss")) == {0, 1, 2}
    assert "Stopped at step 3. To resume:" in capsys.readouterr().out


def test_a_signal_that_is_ignored_stays_ignored_as_nohup_asks_for(
    tiny_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_signal_after(3, monkeypatch, signal.SIGHUP)
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert tiny_main("--max_steps=5") == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_signal_that_interrupts_a_print_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    monkeypatch.setattr("rich.console.Console.print", busy)
    stop = StopOnSignal(last=None)
    stop._on_signal(signal.SIGTERM, None)
    assert stop.exit_code == 143


def test_sigterm_ends_a_run_that_keeps_no_checkpoints(
    tiny_main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    send_signal_after(3, monkeypatch, signal.SIGTERM)
    assert tiny_main("--max_steps=9", "--enable_checkpointing=false") == 143
    assert not list(Path().rglob("*.ckpt"))
    assert "To resume" not in capsys.readouterr().out


@pytest.mark.parametrize("step", [2, 99])
def test_a_run_leaves_signals_as_they_were(
    tiny_main: Main, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    send_signal_after(step, monkeypatch, signal.SIGTERM)
    before = [signal.getsignal(number) for number in BOTH]
    assert tiny_main("--max_steps=3") == (143 if step == 2 else 0)
    assert [signal.getsignal(number) for number in BOTH] == before


def test_a_signal_that_arrives_while_the_processes_agree_is_not_lost() -> None:
    stop = StopOnSignal(last=None)

    def reduce(number: torch.Tensor, reduce_op: str) -> torch.Tensor:
        stop._on_signal(signal.SIGTERM, None)
        return number  # what was known before the signal

    trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=reduce))
    module = SimpleNamespace(device="cpu")
    stop.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    stop.on_train_batch_start(trainer, module, None, 1)  # type: ignore[arg-type]
    stop.on_train_batch_end(trainer, module, None, None, 1)  # type: ignore[arg-type]
    with pytest.raises(Terminated):
        stop.on_train_batch_start(trainer, module, None, 2)  # type: ignore[arg-type]
    assert stop.exit_code == 143


def test_a_run_ends_in_time_with_a_checkpoint(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=1000000", "--max_time=00:00:00:01", "--sample.max_new_tokens=0")
    assert 0 < cli.trainer.global_step < 1_000_000
    assert saved_step("best") == cli.trainer.global_step


def test_max_time_counts_from_the_start_of_each_run(
    tiny_main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--max_steps=100000", "--max_time=00:00:00:01", "--model.schedule=constant"]
    options += ["--val_check_interval=100000"]
    assert tiny_main(*options) == 0
    first = saved_step()
    assert f"Stopped at step {first:,}. To resume:" in capsys.readouterr().out
    assert tiny_main(*options, "--ckpt_path=last") == 0
    assert saved_step() > first + 5


def test_a_non_finite_loss_ends_the_run_with_advice_and_keeps_the_checkpoint(
    tiny_main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = ShakespeareLM.training_step

    def training_step(self: ShakespeareLM, batch, batch_idx: int) -> torch.Tensor:
        return original(self, batch, batch_idx) * (math.nan if self.global_step == 5 else 1.0)

    monkeypatch.setattr(ShakespeareLM, "training_step", training_step)
    assert tiny_main("--max_steps=9", "--val_check_interval=2") == 1
    error = capsys.readouterr().err
    assert "error: train_loss is nan at step 6" in error
    assert (
        "try --model.learning_rate below 0.008 and --model.muon_learning_rate below 0.04, "
        "--model.warmup_steps above 2; the best checkpoint is kept"
    ) in error
    assert saved_step() == 4


def test_the_advice_after_a_divergence_names_only_what_is_not_on_already(
    tiny_main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model.learning_rate=1e37", "--model.warmup_steps=0", "--max_steps=1")
    assert tiny_main(*options, "--model.optimizer=adamw", "--gradient_clip_val=0") == 1
    error = capsys.readouterr().err
    assert "try --model.learning_rate below 1e+37, --model.warmup_steps above 0, --grad" in error
    assert "muon" not in error


def test_a_non_finite_gradient_ends_the_run_before_the_weights_are_damaged(
    tiny_main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(context, loss: torch.Tensor) -> torch.Tensor:
            return loss.clone()

        @staticmethod
        def backward(context, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.inf

    original = ShakespeareLM.training_step
    modules = []

    def training_step(self: ShakespeareLM, batch, batch_idx: int) -> torch.Tensor:
        modules[:] = [self]
        loss = original(self, batch, batch_idx)
        return Overflow.apply(loss) if self.global_step == 5 else loss

    monkeypatch.setattr(ShakespeareLM, "training_step", training_step)
    assert tiny_main("--max_steps=9", "--val_check_interval=2") == 1
    error = capsys.readouterr().err
    assert re.search(r"error: gradient_norm is (nan|inf) at step 6 \(learning rate", error)
    assert "the best checkpoint is kept: " in error
    assert all(torch.isfinite(parameter).all() for parameter in modules[0].parameters())


def test_a_non_finite_validation_loss_ends_the_run_too(
    tiny_main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model.learning_rate=1e37", "--model.warmup_steps=0", "--max_steps=1")
    assert tiny_main(*options) == 1
    error = capsys.readouterr().err
    assert "error: val_loss is inf at step 1 (learning rate 1e+37)" in error
    assert "no model has been saved yet" in error
