"""Shared by the tests of `complete` and of its parts: two runs, and the command in this process."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands.complete import main
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

VOCABULARY = "\n" + "".join(map(chr, range(32, 127))) + "é"
RunComplete = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
def run_complete(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> RunComplete:
    """Return a function that runs the command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(runs)

    def run(*options: str, stdin: bytes = b"") -> tuple[int, str, str]:
        text = io.TextIOWrapper(io.BytesIO(stdin))
        out = io.TextIOWrapper(io.BytesIO(), write_through=True)
        monkeypatch.setattr(sys, "stdin", text)
        monkeypatch.setattr(sys, "stdout", out)
        try:
            code = main(list(options))
        except SystemExit as end:
            code = int(str(end.code))
        return code, out.buffer.getvalue().decode(), capfd.readouterr().err

    return run


def replace_stdout(monkeypatch: pytest.MonkeyPatch) -> io.TextIOWrapper:
    """Replace the standard output by one that, like a bad terminal, claims to know only ASCII."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream
