"""Two processes give what one gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY, logged

SCRIPT = Path(__file__).parents[2] / "scripts" / "fit.py"


def run(folder: Path, *options: str) -> dict[int, float]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *TINY, *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    files = sorted(path.name for path in folder.rglob("*.ckpt"))
    assert files == ["best.ckpt", "last.ckpt"]
    return logged(folder / "lightning_logs/version_0", "val_loss")


@pytest.mark.slow
def test_two_processes_validate_and_train_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    # Plain gradient descent: AdamW divides by gradients near zero, and so magnifies rounding.
    options = ["--max_steps=6", "--val_check_interval=3", "--model.optimizer=sgd"]
    one = run(tmp_path / "one", *options, "--data.batch_size=64")
    two = run(tmp_path / "two", *options, "--data.batch_size=32", "--devices=2", "--strategy=ddp")
    assert one.keys() == two.keys()
    for step, loss in one.items():
        # Gradients are sums in another order, and each process divides by its own count.
        assert two[step] == pytest.approx(loss, rel=1e-5)
