"""A run that is stopped anywhere can be resumed, and then equals an undisturbed run bit for bit."""

import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands.fit import main
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.progress import Throughput
from tests.conftest import TINY, Fit, logged

if os.name != "posix":
    pytest.skip("sends the signals of POSIX", allow_module_level=True)

# One epoch has 34 steps: 40 steps, validated every 6, cross its end.
OPTIONS = ["--max_steps=40", "--val_check_interval=6", "--model.dropout=0.2"]
CURVES = ("train_loss", "val_loss", "train_eval_loss", "learning_rate", "gradient_norm")

Event = tuple[str, int]
EVENTS = {
    "step": (Throughput, "on_train_batch_end"),
    "validation": (ShakespeareLM, "validation_step"),
    "write": (os, "fsync"),  # the checkpoint is in the file, which still has its temporary name
    "rename": (Path, "replace"),
}
slow = pytest.mark.slow

# One process imports everything once, and is forked for each run that is to be killed.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])


def act_at(patch: pytest.MonkeyPatch, event: Event, act: Callable[[], None]) -> None:
    """Make an event cause an act when it happens for the given time."""
    name, count = event
    original: Callable = getattr(*EVENTS[name])
    happened = itertools.count(1)

    def counted(*arguments, **options):
        if next(happened) == count:
            act()
        return original(*arguments, **options)

    patch.setattr(*EVENTS[name], counted)


def _run(folder: Path, options: list[str], event: Event | None, number: int) -> None:
    os.setsid()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if event is not None:
        act_at(pytest.MonkeyPatch(), event, lambda: os.kill(os.getpid(), number))
    sys.argv = ["fit.py", *TINY, *options]
    os._exit(main())


def run(
    folder: Path,
    *options: str,
    event: Event | None = None,
    number: int = signal.SIGKILL,
    seconds: float | None = None,
) -> int:
    """Run in a process that sends itself a signal at an event, or is killed after some seconds;
    return its exit code, which is -9 after SIGKILL.
    """
    process = _PROCESSES.Process(target=_run, args=(folder, list(options), event, number))
    process.start()
    if seconds is not None:
        time.sleep(seconds)
        process.kill()
    process.join(600)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def finish(folder: Path, *options: str) -> None:
    assert run(folder, *options) == 0, output(folder)


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text()


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights and the optimizer's state at the end of a run."""
    path = folder / "lightning_logs/version_0/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    tensors = dict(checkpoint["state_dict"])
    for number, moments in checkpoint["optimizer_states"][0]["state"].items():
        tensors |= {f"{number} {name}": torch.as_tensor(value) for name, value in moments.items()}
    return tensors


def assert_equal_runs(*folders: Path) -> None:
    expected, found = map(state, folders)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    for name in CURVES:
        expected, found = (logged(folder / "lightning_logs/version_0", name) for folder in folders)
        assert expected == found, name


def kill_and_resume(folder: Path, options: list[str], *events: Event) -> None:
    """Kill a run at each event in turn, counted from where it resumed, and let it end."""
    again: list[str] = []
    for event in events:
        assert run(folder, *options, *again, event=event) == -signal.SIGKILL, output(folder)
        again = ["--ckpt_path=last"]
    finish(folder, *options, *again)
    assert not list(folder.rglob("*.part"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, *OPTIONS)
    return folder


class Killed(Exception):  # noqa: N818
    """Stands for anything that ends a process in the middle of a step."""


@pytest.mark.parametrize(
    ("batch", "option"),
    [
        (9, "--data.window_order=shifted"),
        (21, "--model.schedule=cosine"),
        pytest.param(42, "--accumulate_grad_batches=4 --max_steps=12", id="accumulated"),
    ],
)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, batch: int, option: str
) -> None:
    def kill() -> None:
        raise Killed

    options = [*OPTIONS, *option.split()]
    tiny_fit(*options, "--default_root_dir=whole")
    with monkeypatch.context() as patch:
        act_at(patch, ("step", batch), kill)
        with pytest.raises(Killed):
            tiny_fit(*options, "--default_root_dir=cut")
    tiny_fit(*options, "--default_root_dir=cut", "--ckpt_path=last")
    assert_equal_runs(Path("whole"), Path("cut"))


def test_sigkill_at_a_step_in_validation_and_while_a_checkpoint_is_written(
    whole: Path, tmp_path: Path
) -> None:
    # The first is when only the initial state has been saved.
    events = [("step", 3), ("validation", 5), ("write", 3), ("rename", 4), ("step", 7)]
    kill_and_resume(tmp_path, OPTIONS, *events)
    assert_equal_runs(whole, tmp_path)


@slow
@pytest.mark.parametrize("number", range(30))
def test_sigkill_at_random_events(whole: Path, tmp_path: Path, number: int) -> None:
    chance = random.Random(number)
    # How often each happens in a whole run; the first file is written before the first step.
    counts = {"step": 40, "validation": 21, "write": 30, "rename": 15}
    name = chance.choice(list(counts))
    kill_and_resume(tmp_path, OPTIONS, (name, chance.randint(2, counts[name])))
    assert_equal_runs(whole, tmp_path)


@slow
@pytest.mark.parametrize("number", range(10))
def test_sigkill_from_outside_at_random_times(whole: Path, tmp_path: Path, number: int) -> None:
    run(tmp_path, *OPTIONS, seconds=random.Random(number).uniform(0.5, 3.0))
    # A run that was killed while it was still starting has no checkpoint to resume from.
    started = list(tmp_path.rglob("last.ckpt"))
    finish(tmp_path, *OPTIONS, *(["--ckpt_path=last"] if started else []))
    if started:
        assert_equal_runs(whole, tmp_path)


@slow
@pytest.mark.parametrize(
    "option",
    [
        "--data.window_order=sequential",
        "--data.window_order=grid",
        "--data.window_order=shifted",
        "--data.window_order=random",
        "--data.split=random_chunks",
        "--data.test_fraction=0.1",
        "--model.optimizer=adamw",
        "--model.optimizer=sgd",
        "--model.schedule=cosine",
        "--model.schedule=constant",
        "--model.network=bigram --model.optimizer=adamw --model.characters_ahead=1",
        "--model.positions=learned",
        "--model.positions=rotary",
        "--model.attention_dropout=0.1",
        "--model.tied_head=true",
        "--accumulate_grad_batches=4",
        "--limit_train_batches=7",
        "--limit_train_batches=0.5",
        "--max_epochs=2",
        "--precision=32-true",
        "--gradient_clip_val=0.1",
        "--num_sanity_val_steps=2",
    ],
)
def test_sigkill_with_every_option_that_has_a_state(tmp_path: Path, option: str) -> None:
    options = [*OPTIONS, *option.split()]
    finish(tmp_path / "whole", *options)
    chance = random.Random(option)
    events = [("step", chance.randint(7, 20)), ("step", chance.randint(1, 20))]
    kill_and_resume(tmp_path / "cut", options, *events)
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("event", "step"),
    [
        (("step", 4), 4),
        (("validation", 3), 7),  # the validation ends, and so does the next step
        *(pytest.param(("step", step), step, marks=slow) for step in (6, 34, 37)),
    ],
)
def test_sigterm_saves_the_step_and_the_run_resumes_from_it(
    whole: Path, tmp_path: Path, event: Event, step: int
) -> None:
    assert run(tmp_path, *OPTIONS, event=event, number=signal.SIGTERM) == 143, output(tmp_path)
    assert f"Stopped at step {step}" in output(tmp_path)
    finish(tmp_path, *OPTIONS, "--ckpt_path=last")
    assert f"last.ckpt, step {step}" in output(tmp_path)
    assert_equal_runs(whole, tmp_path)


@pytest.mark.parametrize("batch", [5, pytest.param(7, marks=slow)])
def test_sigterm_between_the_batches_of_one_step_loses_no_gradient(
    tmp_path: Path, batch: int
) -> None:
    options = ["--max_steps=12", "--val_check_interval=6", "--accumulate_grad_batches=4"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(whole, *options)
    assert run(cut, *options, event=("step", batch), number=signal.SIGTERM) == 143, output(cut)
    finish(cut, *options, "--ckpt_path=last")
    assert_equal_runs(whole, cut)


def test_a_checkpoint_without_a_fingerprint_is_resumed_with_a_warning(tiny_fit: Fit) -> None:
    last = tiny_fit("--model.decay_steps=4", "--max_steps=2").last.path
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["ShakespeareDataModule"]  # as an older version wrote it
    torch.save(checkpoint, last)
    with pytest.warns(UserWarning, match="no fingerprint of its text and split"):
        resumed = tiny_fit("--model.decay_steps=4", "--max_steps=4", "--ckpt_path=last")
    assert resumed.trainer.global_step == 4
