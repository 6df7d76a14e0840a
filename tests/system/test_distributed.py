"""Several processes train as one does, and can be stopped, killed and resumed like one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY, logged

SCRIPT = Path(__file__).parents[2] / "scripts" / "fit.py"
# Plain gradient descent: AdamW divides by gradients near zero, and so magnifies rounding.
OPTIONS = ["--max_steps=6", "--val_check_interval=3", "--model.optimizer=sgd"]
TWO = ["--data.batch_size=32", "--devices=2", "--strategy=ddp"]
RUN = Path("lightning_logs/version_0")

pytestmark = pytest.mark.slow
if os.name != "posix":
    pytest.skip("sends the signals of POSIX", allow_module_level=True)


def free_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return str(unused.getsockname()[1])


def start(
    folder: Path, *options: str, torchrun: bool = False, **environment: str
) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    arguments = ["--nproc_per_node=2", f"--master_port={free_port()}"]
    launcher = ["-m", "torch.distributed.run", *arguments] if torchrun else []
    return subprocess.Popen(
        [sys.executable, *launcher, str(SCRIPT), *TINY, *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a run to end with this code; return what it printed."""
    output, error = process.communicate(timeout=900)
    assert process.returncode == code, error
    assert "warning" not in error, error
    return output


def losses(folder: Path) -> dict[int, float]:
    assert sorted(path.name for path in folder.rglob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    assert [path.name for path in (folder / "lightning_logs").iterdir()] == ["version_0"]
    return logged(folder / RUN, "val_loss")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Return the validation losses of one process with twice the batch."""
    folder = tmp_path_factory.mktemp("one")
    finish(start(folder, *OPTIONS, "--data.batch_size=64"))
    return losses(folder)


def assert_equals_one(folder: Path, one: dict[int, float]) -> None:
    # Gradients are sums in another order, and each process divides by its own count.
    assert losses(folder) == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("torchrun", [False, True])
def test_two_processes_validate_and_train_as_one_with_twice_the_batch(
    tmp_path: Path, one: dict[int, float], torchrun: bool
) -> None:
    output = finish(start(tmp_path, *OPTIONS, *TWO, torchrun=torchrun))
    assert output.count(" on cpu in ") == output.count("best val_loss") == 1
    assert_equals_one(tmp_path, one)


def test_two_machines_train_as_one(tmp_path: Path, one: dict[int, float]) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    options = [*OPTIONS, "--data.batch_size=32", "--num_nodes=2", "--devices=1", "--strategy=ddp"]
    machines = [start(tmp_path, *options, **address, NODE_RANK=rank) for rank in ("0", "1")]
    outputs = [finish(machine) for machine in machines]
    assert ["best val_loss" in output for output in outputs] == [True, False]
    assert_equals_one(tmp_path, one)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / RUN / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def stop(process: subprocess.Popen[str], number: int) -> None:
    """Terminate one of the processes, which stops both, or kill them together."""
    if number == signal.SIGTERM:
        process.send_signal(number)
        assert "Stopped at step" in finish(process, code=143)
    else:
        os.killpg(process.pid, number)
        process.communicate(timeout=900)


@pytest.mark.parametrize(
    ("number", "option", "tolerance"),
    [
        (signal.SIGTERM, "--model.dropout=0.2", 0),
        # Sums of two are the same in any order; the accumulated gradient is rounded once more.
        (signal.SIGTERM, "--model.optimizer=sgd --accumulate_grad_batches=2", 1e-4),
        (signal.SIGKILL, "--val_check_interval=50", 0),
    ],
)
def test_two_processes_stopped_or_killed_resume_as_if_they_had_not_been(
    tmp_path: Path, number: int, option: str, tolerance: float
) -> None:
    options = ["--max_steps=400", "--val_check_interval=200", *option.split(), *TWO]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(start(whole, *options))
    process = start(cut, *options)
    while not (cut / RUN / "checkpoints/last.ckpt").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    stop(process, number)
    finish(start(cut, *options, "--ckpt_path=last"))
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(
            weights(cut)[name], tensor, rtol=tolerance, atol=tolerance / 10, msg=name
        )
    assert losses(cut) == pytest.approx(losses(whole), rel=tolerance, abs=0)


def test_two_processes_whose_training_diverges_both_stop(tmp_path: Path) -> None:
    options = ["--max_steps=50", "--model.optimizer=sgd", "--model.learning_rate=1e20", *TWO]
    process = start(tmp_path, *options, "--gradient_clip_val=0")
    _, error = process.communicate(timeout=900)
    assert process.returncode == 1, error
    assert "error: gradient_norm is " in error
    assert "Traceback" not in error
