"""A run that is killed anywhere can be resumed, and then equals an undisturbed run bit for bit."""

import random
import signal
from pathlib import Path

import pytest
import torch

from tests.conftest import logged
from tests.system.killing import Event, output, run, run_and_kill_after

# One epoch has 34 steps: 40 steps, validated every 6, cross its end.
OPTIONS = ["--max_steps=40", "--val_check_interval=6", "--model.dropout=0.2"]
CURVES = ("train_loss", "val_loss", "train_eval_loss", "learning_rate", "gradient_norm")


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights and the optimizer's state at the end of a run."""
    path = folder / "lightning_logs/version_0/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    tensors = dict(checkpoint["state_dict"])
    for number, moments in checkpoint["optimizer_states"][0]["state"].items():
        tensors |= {f"{number} {name}": torch.as_tensor(value) for name, value in moments.items()}
    return tensors


def assert_equal_runs(one: Path, other: Path) -> None:
    expected, found = state(one), state(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    for name in CURVES:
        assert logged(other / "lightning_logs/version_0", name) == logged(
            one / "lightning_logs/version_0", name
        ), name


def kill_and_resume(folder: Path, options: list[str], *events: Event) -> None:
    """Kill a run at each event in turn, counted from where it resumed, and let it end."""
    again: list[str] = []
    for event in events:
        assert run(folder, *options, *again, event=event) == -signal.SIGKILL, output(folder)
        again = ["--ckpt_path=last"]
    assert run(folder, *options, *again) == 0, output(folder)
    assert not list(folder.rglob("*.part"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, *OPTIONS) == 0, output(folder)
    return folder


@pytest.mark.parametrize(
    "events",
    [
        [("step", 3)],  # when only the initial state has been saved
        [("validation", 5)],
        [("write", 7)],
        [("rename", 6)],
        [("step", 20), ("write", 2), ("step", 7)],
    ],
    ids=str,
)
def test_sigkill_at_a_step_in_validation_and_while_a_checkpoint_is_written(
    whole: Path, tmp_path: Path, events: list[Event]
) -> None:
    kill_and_resume(tmp_path, OPTIONS, *events)
    assert_equal_runs(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(30))
def test_sigkill_at_random_events(whole: Path, tmp_path: Path, number: int) -> None:
    chance = random.Random(number)
    # How often each happens in a whole run; the first file is written before the first step.
    counts = {"step": 40, "validation": 21, "write": 30, "rename": 15}
    name = chance.choice(list(counts))
    kill_and_resume(tmp_path, OPTIONS, (name, chance.randint(2, counts[name])))
    assert_equal_runs(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_sigkill_from_outside_at_random_times(whole: Path, tmp_path: Path, number: int) -> None:
    run_and_kill_after(tmp_path, random.Random(number).uniform(0.5, 3.0), *OPTIONS)
    # A run that was killed while it was still starting has no checkpoint to resume from.
    started = list(tmp_path.rglob("last.ckpt"))
    assert run(tmp_path, *OPTIONS, *(["--ckpt_path=last"] if started else [])) == 0, output(
        tmp_path
    )
    if started:
        assert_equal_runs(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        "--data.window_order=sequential",
        "--data.window_order=grid",
        "--data.window_order=shifted",
        "--data.window_order=random",
        "--data.split=random_chunks",
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
        "--precision=32-true",
        "--gradient_clip_val=0.1",
        "--num_sanity_val_steps=2",
        "--data.test_fraction=0.1",
    ],
)
def test_sigkill_with_every_option_that_has_a_state(tmp_path: Path, option: str) -> None:
    options = [*OPTIONS, *option.split()]
    assert run(tmp_path / "whole", *options) == 0, output(tmp_path / "whole")
    chance = random.Random(option)
    events = [("step", chance.randint(7, 20)), ("step", chance.randint(1, 20))]
    kill_and_resume(tmp_path / "cut", options, *events)
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")


_slow = pytest.mark.slow


@pytest.mark.parametrize("step", [4, *(pytest.param(n, marks=_slow) for n in (6, 34, 37))])
def test_sigterm_saves_the_step_and_the_run_resumes_from_it(
    whole: Path, tmp_path: Path, step: int
) -> None:
    event = ("step", step)
    assert run(tmp_path, *OPTIONS, event=event, number=signal.SIGTERM) == 143, output(tmp_path)
    assert f"Stopped at step {step}" in output(tmp_path)
    assert run(tmp_path, *OPTIONS, "--ckpt_path=last") == 0, output(tmp_path)
    assert f"last.ckpt, step {step}" in output(tmp_path)
    assert_equal_runs(whole, tmp_path)


@pytest.mark.parametrize("batch", [5, pytest.param(7, marks=_slow)])
def test_sigterm_between_the_batches_of_one_step_loses_no_gradient(
    tmp_path: Path, batch: int
) -> None:
    options = ["--max_steps=12", "--val_check_interval=6", "--accumulate_grad_batches=4"]
    whole = tmp_path / "whole"
    assert run(whole, *options) == 0, output(whole)
    cut = tmp_path / "cut"
    assert run(cut, *options, event=("step", batch), number=signal.SIGTERM) == 143, output(cut)
    assert run(cut, *options, "--ckpt_path=last") == 0, output(cut)
    assert_equal_runs(whole, cut)


def test_sigterm_during_a_validation_lets_the_validation_finish(
    whole: Path, tmp_path: Path
) -> None:
    event = ("validation", 3)
    assert run(tmp_path, *OPTIONS, event=event, number=signal.SIGTERM) == 143, output(tmp_path)
    assert run(tmp_path, *OPTIONS, "--ckpt_path=last") == 0, output(tmp_path)
    assert_equal_runs(whole, tmp_path)
