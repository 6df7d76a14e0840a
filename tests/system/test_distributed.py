"""Several processes train as one does, and can be stopped, killed and resumed like one."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY, logged

SCRIPT = Path(__file__).parents[2] / "scripts" / "fit.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# Plain gradient descent: AdamW divides by gradients near zero, and so magnifies rounding.
OPTIONS = ["--max_steps=6", "--val_check_interval=3", "--model.optimizer=sgd"]
TWO = ["--data.batch_size=32", "--devices=2", "--strategy=ddp"]
RUN = Path("lightning_logs/version_0")

pytestmark = pytest.mark.slow


def start(
    folder: Path, *options: str, launcher: list[str] | None = None, **environment: str
) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [*(launcher or [sys.executable]), str(SCRIPT), *TINY, *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a run to end with this code; return what it printed."""
    output, error = process.communicate(timeout=300)
    assert process.returncode == code, error
    assert "warning" not in error, error
    return output


def losses(folder: Path) -> dict[int, float]:
    assert sorted(path.name for path in folder.rglob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    assert [path.name for path in (folder / "lightning_logs").iterdir()] == ["version_0"]
    return logged(folder / RUN, "val_loss")


def free_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return str(unused.getsockname()[1])


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Return the validation losses of one process with twice the batch."""
    folder = tmp_path_factory.mktemp("one")
    finish(start(folder, *OPTIONS, "--data.batch_size=64"))
    return losses(folder)


def assert_equals_one(folder: Path, one: dict[int, float]) -> None:
    two = losses(folder)
    assert one.keys() == two.keys()
    for step, loss in one.items():
        # Gradients are sums in another order, and each process divides by its own count.
        assert two[step] == pytest.approx(loss, rel=1e-5)


def test_two_processes_validate_and_train_as_one_with_twice_the_batch(
    tmp_path: Path, one: dict[int, float]
) -> None:
    output = finish(start(tmp_path, *OPTIONS, *TWO))
    assert output.count("parameters on cpu") == output.count("best val_loss") == 1
    assert_equals_one(tmp_path, one)


def test_two_processes_of_torchrun_train_as_one(tmp_path: Path, one: dict[int, float]) -> None:
    launcher = [*TORCHRUN, "--nproc_per_node=2", f"--master_port={free_port()}"]
    finish(start(tmp_path, *OPTIONS, *TWO, launcher=launcher))
    assert_equals_one(tmp_path, one)


def test_two_machines_train_as_one(tmp_path: Path, one: dict[int, float]) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    options = [*OPTIONS, "--data.batch_size=32", "--num_nodes=2", "--devices=1", "--strategy=ddp"]
    machines = [start(tmp_path, *options, **address, NODE_RANK=rank) for rank in ("0", "1")]
    outputs = [finish(machine) for machine in machines]
    assert ["best val_loss" in output for output in outputs] == [True, False]
    assert_equals_one(tmp_path, one)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        folder / RUN / "checkpoints/last.ckpt", weights_only=True
    )["state_dict"]
    return state


@pytest.mark.parametrize(
    "option", ["--model.dropout=0.2", "--accumulate_grad_batches=2 --model.optimizer=sgd"]
)
def test_sigterm_to_one_of_two_processes_stops_both_and_the_run_can_be_resumed(
    tmp_path: Path, option: str
) -> None:
    options = ["--max_steps=400", "--val_check_interval=200", *option.split(), *TWO]
    finish(start(tmp_path / "whole", *options))
    cut = tmp_path / "cut"
    process = start(cut, *options)
    last = cut / RUN / "checkpoints/last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert "Stopped at step" in finish(process, code=143)
    finish(start(cut, *options, "--ckpt_path=last"))
    for name, tensor in weights(tmp_path / "whole").items():
        # Sums of two are the same in any order; the accumulated gradient is rounded once more.
        exact = "dropout" in option
        torch.testing.assert_close(
            weights(cut)[name], tensor, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-5
        )


def test_two_processes_whose_training_diverges_both_stop(tmp_path: Path) -> None:
    options = ["--max_steps=50", "--model.optimizer=sgd", "--model.learning_rate=1e20", *TWO]
    process = start(tmp_path, *options, "--gradient_clip_val=0")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    assert "error: gradient_norm is " in error
    assert "Traceback" not in error


def test_two_processes_killed_together_resume_bit_for_bit(tmp_path: Path) -> None:
    options = ["--max_steps=300", "--val_check_interval=50", *TWO]
    finish(start(tmp_path / "whole", *options))
    cut = tmp_path / "cut"
    process = start(cut, *options)
    deadline = time.monotonic() + 120
    while not (cut / RUN / "checkpoints/best.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    finish(start(cut, *options, "--ckpt_path=last"))
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(weights(cut)[name], tensor), name
    assert losses(cut) == losses(tmp_path / "whole")


def test_two_processes_download_once(tmp_path: Path) -> None:
    asked: list[str] = []
    body = resources.files("shakespeare_lm.data").joinpath("sample.txt").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = tmp_path / "fit.py"
    script.write_text(
        "import hashlib, sys\n"
        "from shakespeare_lm.data import corpus\n"
        "from shakespeare_lm.commands.fit import main\n"
        f"url, digest = 'http://127.0.0.1:{server.server_port}/text', sys.argv.pop(1)\n"
        "named = corpus.NamedCorpus('tiny.txt', url, digest)\n"
        "corpus.NAMED_CORPORA['tinyshakespeare'] = named\n"
        "sys.argv.append('--data.corpus=tinyshakespeare')\n"
        "sys.exit(main())\n"
    )

    options = [*TINY[1:], "--max_steps=2", *TWO, f"--data.data_dir={tmp_path / 'data'}"]
    done = subprocess.run(
        [
            *TORCHRUN, "--nproc_per_node=2", f"--master_port={free_port()}", str(script),
            hashlib.sha256(body).hexdigest(), *options,
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_PROXY": "*", "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    assert asked == ["/text"]
