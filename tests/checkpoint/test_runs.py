"""Which checkpoint is meant: the newest run's best, the last that can be resumed, or a path."""

import warnings
from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint import reading
from shakespeare_lm.checkpoint.runs import newest_checkpoint, resolve_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save


def test_the_newest_run_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    for number in (0, 9, 10):
        folder = tmp_path / f"version_{number}" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").touch()
    (tmp_path / "version_11" / "checkpoints").mkdir(parents=True)
    assert newest_checkpoint("best", tmp_path).parts[-3] == "version_10"
    with pytest.raises(UserError, match=r"no last\.ckpt in"):
        newest_checkpoint("last", tmp_path)


def test_a_folder_that_is_not_named_as_runs_are_is_ignored(tmp_path: Path) -> None:
    for name in ("version_1", "version_2_copy", "version_x"):
        folder = tmp_path / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").touch()
    assert newest_checkpoint("best", tmp_path).parts[-3] == "version_1"


def a_run(root: Path, number: int, module: ShakespeareLM, *names: str) -> Path:
    folder = root / f"version_{number}" / "checkpoints"
    folder.mkdir(parents=True)
    for name in names:
        save(folder / f"{name}.ckpt", module, global_step=number)
    return folder


def test_last_is_the_last_checkpoint_of_the_newest_run(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    a_run(tmp_path, 2, module, "best", "last")
    folder = a_run(tmp_path, 10, module, "best", "last")
    found = resolve_checkpoint("last", tmp_path)
    assert found.path == folder / "last.ckpt"
    assert found.step == 10
    assert found.checkpoint.content["hyper_parameters"] == dict(module.hparams)


def test_a_path_is_taken_as_it_is(tmp_path: Path, module: ShakespeareLM) -> None:
    a_run(tmp_path, 2, module, "last")
    path = a_run(tmp_path, 1, module, "best") / "best.ckpt"
    found = resolve_checkpoint(str(path), tmp_path)
    assert (found.path, found.step) == (path, 1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"best\.ckpt is damaged"):
        resolve_checkpoint(str(path), tmp_path)


def test_a_checkpoint_without_a_step_is_of_step_0(tmp_path: Path, module: ShakespeareLM) -> None:
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    path = tmp_path / "a.ckpt"
    torch.save(content, path)
    assert resolve_checkpoint(str(path)).step == 0


def test_a_damaged_last_falls_back_to_the_newest_that_is_not_and_says_so(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    older = a_run(tmp_path, 0, module, "best", "last")
    newer = a_run(tmp_path, 1, module, "best", "last")
    whole = (newer / "last.ckpt").read_bytes()
    (newer / "last.ckpt").write_bytes(whole[:-100])
    with pytest.warns(
        UserWarning, match=r"last\.ckpt is damaged .*; resuming from .*1/.*best\.ckpt"
    ):
        assert resolve_checkpoint("last", tmp_path).path == newer / "best.ckpt"
    (newer / "best.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"resuming from .*version_0/.*last\.ckpt") as warned:
        assert resolve_checkpoint("last", tmp_path).path == older / "last.ckpt"
    assert len(warned) == 2
    for path in older.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"version_1/checkpoints/last\.ckpt is damaged"):
        resolve_checkpoint("last", tmp_path)


def test_without_any_checkpoint_to_resume_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no last\.ckpt in {tmp_path}/.*: train a model first"):
        resolve_checkpoint("last", tmp_path)


def test_every_file_is_read_once(
    tmp_path: Path, module: ShakespeareLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(tmp_path, 0, module, "best", "last")
    folder = a_run(tmp_path, 1, module, "best", "last")
    (folder / "last.ckpt").write_bytes(b"")
    read: list[str] = []
    read_archive = reading.read_archive

    def counted(path: str | Path) -> object:
        read.append(str(path))
        return read_archive(path)

    monkeypatch.setattr(reading, "read_archive", counted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the damaged one
        resolve_checkpoint("last", tmp_path)
    assert read == [str(folder / "last.ckpt"), str(folder / "best.ckpt")]
    read.clear()
    resolve_checkpoint(str(folder / "best.ckpt"))
    assert read == [str(folder / "best.ckpt")]
