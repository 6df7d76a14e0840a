"""When a run ends, what is saved then, and how it is resumed."""

import contextlib
import math
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning import Trainer

from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.progress import Throughput
from shakespeare_lm.training.stopping import StopOnSignal, Terminated
from tests.conftest import logged
from tests.training.conftest import RUN

# Windows has the last alone.
TERMINATION = [
    getattr(signal, name) for name in ("SIGUSR1", "SIGHUP", "SIGTERM") if hasattr(signal, name)
]


def saved_step(name: str = "last") -> int:
    checkpoint = torch.load(RUN / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return int(checkpoint["global_step"])


def send_signal_after(step, monkeypatch, number, times=1):
    """Make a run send itself a signal when it has taken so many steps."""
    original = Throughput.on_train_batch_end

    def on_train_batch_end(self: Throughput, trainer: Trainer, *arguments) -> None:
        original(self, trainer, *arguments)
        for _ in range(times if trainer.global_step == step else 0):
            signal.raise_signal(number)

    monkeypatch.setattr(Throughput, "on_train_batch_end", on_train_batch_end)


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        (["--max_epochs=1", "--max_steps=1000", "--val_check_interval=20"], {20, 34}),
        (["--max_steps=5", "--val_check_interval=3"], {3, 5}),
        # An epoch has 34 batches: its last step has fewer than the others.
        (["--max_steps=11", "--val_check_interval=5", "--accumulate_grad_batches=4"], {5, 10, 11}),
        (["--max_steps=2", "--val_check_interval=00:01:00:00", "--accumulate_grad_batches=2"], {2}),
    ],
)
def test_a_run_is_validated_and_saved_at_its_last_step(tiny_fit, options, validated):
    cli = tiny_fit(*options, "--sample.max_new_tokens=0", "--pictures=false")
    assert cli.trainer.global_step == saved_step() == max(validated)
    assert set(logged(RUN, "val_loss")) == validated


@pytest.mark.parametrize("accumulate", [1, 4])
def test_curves_count_steps_after_an_interruption_too(tiny_fit, tiny_main, monkeypatch, accumulate):
    options = ["--max_steps=6", "--val_check_interval=1000", "--sample.max_new_tokens=0",
               "--pictures=false", f"--accumulate_grad_batches={accumulate}"]  # fmt: skip
    with monkeypatch.context() as patch:
        send_signal_after(3, patch, signal.SIGINT)
        assert tiny_main(*options) == 130
    tiny_fit(*options, "--ckpt_path=last")
    assert set(logged(RUN, "train_loss")) == {1, 2, 3, 4, 5, 6}
    assert set(logged(RUN, "val_loss")) == {3, 6}


def test_ctrl_c_saves_the_step_and_says_how_to_resume(tiny_fit, tiny_main, monkeypatch, capsys):
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


def test_a_second_ctrl_c_stops_at_once(tiny_main, monkeypatch):
    send_signal_after(1, monkeypatch, signal.SIGINT, times=2)
    try:
        assert tiny_main("--max_steps=5") == 130
        assert saved_step() == 0
    finally:  # Lightning leaves Ctrl-C switched off
        signal.signal(signal.SIGINT, signal.default_int_handler)


def signals() -> list:
    return [signal.getsignal(number) for number in (signal.SIGINT, *TERMINATION)]


@pytest.mark.parametrize("number", TERMINATION)
def test_other_signals_save_the_step_and_leave_signals(tiny_main, monkeypatch, capsys, number):
    send_signal_after(3, monkeypatch, number)
    before = signals()
    assert tiny_main("--max_steps=9", "--val_check_interval=2") == 128 + number
    assert signals() == before
    assert saved_step() == 3
    assert set(logged(RUN, "val_loss")) == {2}  # there is no time for a validation
    assert set(logged(RUN, "train_loss")) == {1, 2, 3}
    assert "Stopped at step 3. To resume:" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_under_slurm_a_job_is_not_submitted_again_as_a_new_run(tiny_fit, monkeypatch):
    names = ("JOB_ID", "NTASKS", "PROCID", "LOCALID", "NODEID", "JOB_NAME")
    for name, value in zip(names, ("7", "1", "0", "0", "0", "train"), strict=True):
        monkeypatch.setenv(f"SLURM_{name}", value)
    send_signal_after(2, monkeypatch, signal.SIGUSR1)
    cli = tiny_fit("--max_steps=9")
    environment = cli.trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    assert (saved_step(), cli.stop_on_signal.exit_code) == (2, 128 + signal.SIGUSR1)
    assert not list(Path().rglob("hpc_ckpt*"))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_signal_that_is_ignored_stays_ignored_as_nohup_asks_for(tiny_main, monkeypatch):
    send_signal_after(3, monkeypatch, signal.SIGHUP)
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = signals()
    try:
        assert tiny_main("--max_steps=5") == 0
        assert signals() == before
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_signal_that_interrupts_a_print_is_not_lost(monkeypatch):
    def busy(*_: object) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    monkeypatch.setattr("rich.console.Console.print", busy)
    stop = StopOnSignal(last=None)
    stop._on_signal(signal.SIGTERM, None)
    assert stop.exit_code == 143


def test_sigterm_ends_a_run_that_keeps_no_checkpoints(tiny_main, monkeypatch, capsys):
    send_signal_after(3, monkeypatch, signal.SIGTERM)
    assert tiny_main("--max_steps=9", "--enable_checkpointing=false") == 143
    assert not list(Path().rglob("*.ckpt"))
    assert "To resume" not in capsys.readouterr().out


def test_a_signal_that_arrives_while_the_processes_agree_is_not_lost():
    stop = StopOnSignal(last=None)

    def reduce(number, reduce_op):
        stop._on_signal(signal.SIGTERM, None)
        return number  # what was known before the signal

    trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=reduce))
    for batch in range(2):
        stop.on_train_batch_end(trainer, SimpleNamespace(device="cpu"), None, None, batch)
        with pytest.raises(Terminated) if batch else contextlib.nullcontext():
            stop.on_train_batch_start(trainer, None, None, batch + 1)
    assert stop.exit_code == 143


def test_max_time_counts_from_the_start_of_each_run(tiny_main, capsys):
    options = ["--max_steps=100000", "--max_time=00:00:00:01", "--model.schedule=constant",
               "--val_check_interval=100000", "--sample.max_new_tokens=0"]  # fmt: skip
    assert tiny_main(*options) == 0
    first = saved_step()
    assert 0 < first == saved_step("best") < 100_000
    assert f"Stopped at step {first:,}. To resume:" in capsys.readouterr().out
    assert tiny_main(*options, "--ckpt_path=last") == 0
    assert saved_step() > first + 1


def test_a_non_finite_validation_loss_ends_the_run_with_advice_that_applies(tiny_main, capsys):
    options = ("--model.learning_rate=1e37", "--model.warmup_steps=0", "--max_steps=1")
    assert tiny_main(*options) == 1
    error = capsys.readouterr().err
    assert "error: val_loss is inf at step 1 (learning rate 1e+37)" in error
    assert "no model has been saved yet" in error
    assert tiny_main(*options, "--model.optimizer=adamw", "--gradient_clip_val=0") == 1
    error = capsys.readouterr().err
    assert "try --model.learning_rate below 1e+37, --model.warmup_steps above 0, --grad" in error
    assert "muon" not in error


class Overflow(torch.autograd.Function):
    @staticmethod
    def forward(context, loss):
        return loss.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * math.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loss: loss * math.nan, r"error: train_loss is nan at step 6"),
        (Overflow.apply, r"error: gradient_norm is (nan|inf) at step 6 \(learning rate"),
    ],
)
def test_a_non_finite_step_ends_the_run_undamaged(tiny_main, monkeypatch, capsys, change, message):
    original, modules = ShakespeareLM.training_step, []

    def training_step(self, batch, batch_idx):
        modules[:] = [self]
        loss = original(self, batch, batch_idx)
        return change(loss) if self.global_step == 5 else loss

    monkeypatch.setattr(ShakespeareLM, "training_step", training_step)
    assert tiny_main("--max_steps=9", "--val_check_interval=2") == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert (
        "try --model.learning_rate below 0.008 and --model.muon_learning_rate below 0.04, "
        "--model.warmup_steps above 2; the best checkpoint is kept: "
    ) in error
    assert saved_step() == 4
    assert all(torch.isfinite(parameter).all() for parameter in modules[0].parameters())
