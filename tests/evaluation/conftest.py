"""A run and evaluations for these tests."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from shakespeare_lm.commands.fit import fit
from shakespeare_lm.evaluation.evaluation import Evaluation
from tests.conftest import TINY

LINES = "To be, or not to be: that is the question.\nWhether it is nobler, who can tell?\n"
PLAY = "".join(f"Scene {scene}\n{LINES}" for scene in range(100, 140))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(folder):
        Path("play.txt").write_text(PLAY)
        fit([*TINY, "--data.corpus=play.txt", "--max_steps=6", "--val_check_interval=3",
             "--precision=32-true", "--data.test_fraction=0.1"])  # fmt: skip
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the checkpoint of a run on `play.txt`, both copied into the working directory."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (path,) = Path().glob("lightning_logs/**/checkpoints/best.ckpt")
    return path


def evaluation(losses: np.ndarray, **changes: object) -> Evaluation:
    fields = {
        "checkpoint": "a", "part": "val", "characters": len(losses) - 1, "block_nats": 2.0,
        "sliding_nats": 1.0, "stride": 4, "stored_val_loss": None, "warning": None,
        "losses": losses,
    }  # fmt: skip
    return Evaluation(**{**fields, **changes})  # type: ignore[arg-type]
