"""Faults below Python: in everything that writes a file, each call of the system fails once. Then
the old file or the new one is there, complete, nothing else is left, and one line names the file.
"""

import builtins
import errno
import hashlib
import importlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import torch

from shakespeare_lm.commands import complete, evaluate, export, page, score
from shakespeare_lm.commands.console import run
from shakespeare_lm.data import download
from shakespeare_lm.export import onnx_file
from shakespeare_lm.training.checkpointing import AtomicCheckpointIO
from tests.evaluation.conftest import evaluation
from tests.export.models import random_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")
CALLS = ("replace", "rename", "fsync", "mkdir", "chmod")
OPEN = io.open


class Faults:
    """Stands between Python and the system, for files in the current folder: counts the calls that
    change them, and lets call number `failing` fail with an error number, or writes be short.
    """

    def __init__(self, failing: int = -1, error: int = 0, at_most: int = 1 << 30) -> None:
        self.failing, self.error = failing, error
        self.at_most = at_most  # bytes that one write takes
        self.calls: list[str] = []

    def call(self, name: str, *path: Any) -> None:
        self.calls.append(name)
        if len(self.calls) - 1 == self.failing:
            raise OSError(self.error, os.strerror(self.error), *map(os.fspath, path))

    def open(
        self, file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any
    ) -> Any:
        if isinstance(file, int) or not set(mode) & set("wxa") or not _is_ours(file):
            return OPEN(file, mode, buffering, *more, **options)
        self.call("open", file)
        raw = _FaultyFile(self, os.fspath(file), mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *more, **options)

    def system(self, name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def called(path: Any, *more: Any, **options: Any) -> Any:
            if isinstance(path, int):
                self.call(name)
            elif _is_ours(path):
                self.call(name, path)
            return function(path, *more, **options)

        return called


def _is_ours(path: Any) -> bool:
    return Path(path).resolve().is_relative_to(Path.cwd())


class _FaultyFile(io.FileIO):
    def __init__(self, faults: Faults, file: str, mode: str) -> None:
        super().__init__(file, mode)
        self.faults = faults

    def write(self, data: Any, /) -> int:
        self.faults.call("write")
        return super().write(memoryview(data).cast("B")[: self.faults.at_most])


OLD = b"what was there"
LINES = '{"prompt": "a", "max_new_tokens": 3, "seed": 1}\n' * 3
BODY = b"To be, or not to be.\n" * 9000
MODEL = ("--ckpt", "best.ckpt")
SHORT = ("--max_new_tokens=5", "--seed=1")


def _download() -> int:
    download.download("http://nowhere.invalid", hashlib.sha256(BODY).hexdigest(), Path("out"))
    return 0


def _save() -> int:
    AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(9000.0)}, "out")
    return 0


def _response(*_: object) -> requests.Response:
    response = requests.Response()
    response.status_code, response.raw = 200, io.BytesIO(BODY)
    return response


def _write_onnx(_: object, path: Path) -> None:
    helper = importlib.import_module("onnx.helper")
    empty = helper.make_graph([], "empty", [], [])
    model = helper.make_model(empty, opset_imports=[helper.make_opsetid("", 20)])
    path.write_bytes(model.SerializeToString())


# Those that begin with a * write a text as it is made: a part of it may be left.
WRITERS: dict[str, Callable[[], int]] = {
    "*complete": lambda: complete.main([*MODEL, *SHORT, "--output=out"]),
    "*jsonl": lambda: complete.main([*MODEL, "--jsonl=lines.jsonl", "--output=out"]),
    "*score": lambda: score.main([*MODEL, "--text=abcde", "--json", "--output=out"]),
    "evaluate json": lambda: evaluate.main([*MODEL, "--json=out"]),
    "evaluate report": lambda: evaluate.main([*MODEL, "--report=out"]),
    "page": lambda: page.main([*MODEL, "--output=out"]),
    "safetensors": lambda: export.main([*MODEL, "--to=safetensors", "--output=out.safetensors"]),
    "huggingface": lambda: export.main([*MODEL, "--to=huggingface", "--output=out"]),
    "onnx": lambda: export.main([*MODEL, "--to=onnx", "--output=out"]),
    "download": lambda: run(_download),
    "checkpoint": lambda: run(_save),
}
# All others replace what was there; an export and a download never do.
NEW_ONLY = ("safetensors", "huggingface", "onnx", "download")

# The output, or a temporary file elsewhere, in an error.
NAMED = r"[ /](out(\.safetensors)?(: \.out\.part)?|tmp\w+|page\.html)"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with a model, where slow work that writes nothing is left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    random_checkpoint(tmp_path)
    Path("lines.jsonl").write_text(LINES)
    found = evaluation(torch.full((9,), 1.5).numpy())
    monkeypatch.setattr(
        evaluate, "SplitCorpus", lambda *_: SimpleNamespace(parts=1, difference=None)
    )
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: found)
    monkeypatch.setattr(evaluate, "_baselines", lambda *_: [])
    monkeypatch.setattr(page, "check_exported", lambda *_: None)
    monkeypatch.setattr(export, "huggingface_network", lambda _: None)
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    for command in (page, export):
        monkeypatch.setattr(command, "measure_losses", lambda *_: None)
    monkeypatch.setattr(onnx_file, "_export", _write_onnx)
    monkeypatch.setattr(download, "_open", _response)
    return tmp_path


def attempted(name: str, faults: Faults) -> tuple[int, Any]:
    """Run a writer; return its exit code, and what is in its file or folder."""
    output = Path("out.safetensors" if name == "safetensors" else "out")
    shutil.rmtree(output, ignore_errors=True)
    for old in (output, facts := Path("out.json")):  # which is beside an ONNX file
        old.unlink(missing_ok=True)
    if name not in NEW_ONLY:
        output.write_bytes(OLD)
    before = {*Path().iterdir(), output, facts, Path(".out.lock")}
    with pytest.MonkeyPatch.context() as patch:
        for module in (io, builtins):
            patch.setattr(module, "open", faults.open)
        for call in CALLS:
            patch.setattr(os, call, faults.system(call))
        code = WRITERS[name]()
    assert set(Path().iterdir()) <= before
    assert facts.exists() == (name == "onnx" and output.exists())
    if output.is_dir():
        return code, {path.name: path.read_bytes() for path in output.iterdir()}
    return code, output.read_bytes() if output.exists() else None


@pytest.mark.parametrize("name", WRITERS)
def test_any_call_that_fails_leaves_the_old_or_the_new_and_one_line_that_names_it(
    folder, capsys, name
):
    if name == "onnx":
        pytest.importorskip("onnxscript", reason="needs pip install -e '.[onnx]'")
    whole = Faults()
    code, new = attempted(name, whole)
    assert code == 0
    assert attempted(name, Faults(at_most=1000)) == (0, new)
    for failing, call in enumerate(whole.calls):
        for error in (errno.ENOSPC, errno.EIO):
            capsys.readouterr()
            code, left = attempted(name, Faults(failing, error))
            if code == 0:  # the folder is there already
                assert (call, left) == ("mkdir", new)
                continue
            (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
            assert re.search(rf"{NAMED}: {os.strerror(error)}", line), (call, line)
            is_part = name.startswith("*") and new.startswith(left.rstrip(b"\n"))
            assert left in (new, None if name in NEW_ONLY else OLD) or is_part, call
