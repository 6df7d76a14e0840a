"""Hours of training, saving, resuming and completing need no more than the first minutes.

    SHAKESPEARE_LM_SOAK_MINUTES=30 pytest -m slow -s tests/system/test_soak.py

runs for that long (default: one minute), and prints the measurements.
"""

import gc
import os
import threading
import time
from pathlib import Path

import pytest

from shakespeare_lm.completion.completer import Completer
from tests.conftest import Fit

MINUTES = float(os.environ.get("SHAKESPEARE_LM_SOAK_MINUTES", "1"))
STEPS_PER_ROUND = 40
# Allocators keep some freed memory, and the caches of torch and Python fill at first.
WARM_UP_ROUNDS = 10
PROCESS = Path("/proc/self")


def measure(run: Path) -> dict[str, float]:
    gc.collect()
    checkpoints = list((run / "checkpoints").iterdir())
    pages = int((PROCESS / "statm").read_text().split()[1])
    return {
        "resident_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "open_files": len(list((PROCESS / "fd").iterdir())),
        "threads": threading.active_count(),
        "checkpoint_files": len(checkpoints),
        "checkpoint_kb": sum(path.stat().st_size for path in checkpoints) // 1000,
        "runs": len(list(run.parent.iterdir())),
    }


@pytest.mark.slow
@pytest.mark.skipif(not PROCESS.is_dir(), reason="reads memory and open files from /proc")
def test_hours_need_no_more_memory_files_or_threads_than_minutes(tiny_fit: Fit) -> None:
    started, rounds = time.monotonic(), 0
    first: dict[str, float] = {}
    # A constant learning rate, because the number of steps is not known in advance.
    options = ["--model.schedule=constant", "--val_check_interval=20", "--model.dropout=0.1"]
    while time.monotonic() - started < 60 * MINUTES or rounds <= WARM_UP_ROUNDS + 1:
        rounds += 1
        again = ["--ckpt_path=last"] if rounds > 1 else []
        cli = tiny_fit(*options, f"--max_steps={rounds * STEPS_PER_ROUND}", *again)
        assert cli.trainer.global_step == rounds * STEPS_PER_ROUND
        completer = Completer.from_checkpoint(cli.best.best_model_path)
        assert len(completer.complete("To be", 200, seed=rounds)) == 200
        assert completer.score("To be, or not to be").total_nats > 0
        run = cli.last.path.parents[1]
        del cli, completer
        if rounds == WARM_UP_ROUNDS:
            first = measure(run)
        elif rounds > WARM_UP_ROUNDS and rounds % 10 == 0:
            print(rounds, measure(run))
    last = measure(run)
    print(f"{rounds} rounds: first {first}, last {last}")
    for name in ("open_files", "threads", "checkpoint_files", "runs"):
        assert last[name] <= first[name], name
    # A saved number takes one to five bytes, so the size goes up and down; 20 bytes more for each
    # validation would be 2 kB in a minute.
    assert last["checkpoint_kb"] <= first["checkpoint_kb"] + 1
    assert last["resident_mb"] < first["resident_mb"] * 1.1
