"""What the tests of several commands share: runs, and `complete` in this process."""

import io
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands.complete import main
from shakespeare_lm.commands.fit import fit
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import TINY, save

VOCABULARY = "\n" + "".join(map(chr, range(32, 127))) + "é"
RUN = Path("lightning_logs/version_0")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Return a folder with three runs: one on another split, one that is the first 3 of 5 steps of
    the last, and the last, `RUN`. Tests that change something use `run`.
    """
    folder = tmp_path_factory.mktemp("trained")
    other = ["--config=little", *TINY, "--max_steps=1", "--max_epochs=-1", "--name=other"]
    options = [*TINY, "--val_check_interval=2", "--seed=7", "--model.dropout=0.2"]
    options += ["--model.warmup_steps=0", "--precision=32-true"]
    with chdir(folder):
        fit([*other, "--data.val_fraction=0.2"])
        fit([*options, "--max_steps=3", "--model.decay_steps=5", "--name=cut"])
        fit([*options, "--max_steps=5"])
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """Return the path of the newest run in the current folder, which is a copy of `trained`."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return RUN


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Return a folder with two runs; completion uses the best.ckpt of the newer one by default."""
    folder = tmp_path_factory.mktemp("runs")
    for version in (0, 1):
        torch.manual_seed(version)
        module = ShakespeareLM(VOCABULARY, context_length=16, num_layers=1, num_heads=2, d_model=8)
        # Heads start at zero, and would make every text a random one.
        torch.nn.init.normal_(module.network.head.weight)
        path = folder / f"lightning_logs/version_{version}/checkpoints/best.ckpt"
        path.parent.mkdir(parents=True)
        save(path, module)
    return folder


@pytest.fixture
def run_complete(runs, monkeypatch, capfd):
    """Return a function that runs the command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(runs)

    def run(*options, stdin=b"", terminal=False):
        text = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        if text is not None:
            monkeypatch.setattr(text, "isatty", lambda: terminal)
        out = io.TextIOWrapper(io.BytesIO(), write_through=True)
        monkeypatch.setattr(sys, "stdin", text)
        monkeypatch.setattr(sys, "stdout", out)
        code = main(list(options))
        return code, out.buffer.getvalue().decode(), capfd.readouterr().err

    return run


def run_process(command, cwd=None, **environment):
    """Run words, or a line of shell, in a process with more in its environment."""
    # Python buffers less with this variable, and then hides what fails when it exits.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        command, shell=isinstance(command, str), cwd=cwd, env={**kept, **environment},
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip


def contents():
    """Return the content of every file in the current folder, by its path."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def replace_stdout(monkeypatch):
    """Replace the standard output by one that, like a bad terminal, claims to know only ASCII."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream
