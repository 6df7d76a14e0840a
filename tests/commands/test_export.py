"""The command `export`: what it says at its end works, and mistakes leave nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shakespeare_lm.commands.export import main
from tests.export.models import random_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    random_checkpoint(tmp_path)
    return tmp_path / "best.ckpt"


@pytest.mark.parametrize(
    ("form", "output", "package"),
    [
        ("safetensors", "m.safetensors", "safetensors"),
        ("huggingface", "folder", "transformers"),
        ("onnx", "m.onnx", "onnxruntime"),
    ],
)
def test_the_three_lines_at_its_end_run(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    form: str, output: str, package: str,
) -> None:  # fmt: skip
    pytest.importorskip(package, reason="needs the extra of this form")
    arguments = ["--ckpt", str(checkpoint), "--to", form, "--output", str(tmp_path / output)]
    assert main(arguments) == 0
    use, said = capsys.readouterr()
    assert len(use.splitlines()) == 3
    assert " bytes; use it with" in said
    if form == "huggingface":
        assert str(tmp_path) not in (tmp_path / output / "README.md").read_text()
    changes = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", use], env={**os.environ, **changes}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 15
    assert main(arguments) == 1
    assert "which exists: choose a new path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--to", "safetensors", "--output", "a.bin"],
            "expected a name that ends with .safetensors",
        ),
        (["--to", "safetensors", "--output", "none/a.safetensors"], "there is no folder"),
        (["--to", "safetensors", "--output", "best.ckpt"], "which exists"),
        (
            ["--to", "huggingface", "--output", "a", "--dtype", "int8"],
            "huggingface has float32 only",
        ),
        (["--to", "onnx", "--output", "a", "--ckpt", "none.ckpt"], "none.ckpt"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert main(["--ckpt", "best.ckpt", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("form", ["huggingface", "onnx"])
def test_a_memory_is_refused_by_what_cannot_hold_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    random_checkpoint(tmp_path, memory_order=2)
    output = tmp_path / "out"
    arguments = ["--ckpt", str(tmp_path / "best.ckpt"), "--to", form, "--output", str(output)]
    assert main(arguments) == 1
    assert "memory_order is 2: " in (said := capsys.readouterr().err)
    assert "export --to safetensors" in said
    assert not output.exists()


def test_a_full_disk_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    before = set(tmp_path.rglob("*"))
    for form, output in (("safetensors", "a.safetensors"), ("huggingface", "a")):
        target = str(tmp_path / output)
        assert main(["--ckpt", str(checkpoint), "--to", form, "--output", target]) == 1
        assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert set(tmp_path.rglob("*")) == before
