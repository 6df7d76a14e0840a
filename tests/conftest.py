"""What several tests share: tiny sizes, and runs of the `fit` command inside the test's process."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shakespeare_lm.commands import fit as fit_command
from shakespeare_lm.commands.fit import fit
from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.module import ShakespeareLM

TINY = [
    "--data.corpus=sample",
    "--data.context_length=16",
    "--data.batch_size=64",
    "--model.num_layers=1",
    "--model.num_heads=2",
    "--model.d_model=16",
    "--model.warmup_steps=2",
    "--accelerator=cpu",
    "--enable_progress_bar=false",
    "--sample.max_new_tokens=10",
    "--log_every_n_steps=1",
]

Fit = Callable[..., ShakespeareCLI]
Main = Callable[..., int]


# Tensors this small gain nothing from a second thread, and lose a lot if something else runs.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in processes that tests start


@pytest.fixture
def tiny_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Return `fit` for a tiny model in an empty folder; later options win over `TINY`."""
    monkeypatch.chdir(tmp_path)
    return lambda *options: fit([*TINY, *options])


@pytest.fixture
def tiny_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Main:
    """Return a function that runs the program like `tiny_fit` and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fit_command, "prepare_console", lambda: None)

    def run(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["scripts/fit.py", *TINY, *options])
        return fit_command.main()

    return run


@pytest.fixture
def transformer() -> CausalTransformer:
    """Return a small transformer in evaluation mode whose logits depend on every character."""
    torch.manual_seed(0)
    config = NetworkConfig(
        context_length=8, num_layers=2, num_heads=2, d_model=8, previous_characters=4
    )
    network = CausalTransformer(11, config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network.eval()


def save(path: Path, module: ShakespeareLM, **changes: object) -> Path:
    content = {
        "global_step": 0,
        "optimizer_states": [],
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
    }
    torch.save({**content, **changes}, path)
    return path


def logged(run_folder: Path, name: str) -> dict[int, float]:
    """Return a curve as TensorBoard shows it: step -> value."""
    events = EventAccumulator(str(run_folder))
    events.Reload()
    tags = {tag.rpartition("/")[2]: tag for tag in events.Tags()["scalars"]}  # without groups
    return {event.step: event.value for event in events.Scalars(tags[name])}
