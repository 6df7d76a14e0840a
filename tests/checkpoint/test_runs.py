"""Which checkpoint is meant: the newest run's best, the last that can be resumed, or a path."""

import os
import warnings
from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint import reading
from shakespeare_lm.checkpoint.runs import (
    find_checkpoint,
    find_runs,
    resolve_checkpoint,
)
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save


def test_the_newest_run_is_the_one_whose_checkpoints_were_written_last(tmp_path: Path) -> None:
    paths = [
        tmp_path / run / "checkpoints/best.ckpt"
        for run in ("version_9", "version_10", "a/version_0")
    ]
    for time, path in zip((20, 20, 10), paths, strict=True):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (time, time))
    (tmp_path / "version_11" / "checkpoints").mkdir(parents=True)
    assert find_checkpoint(None, tmp_path) == paths[1]  # the higher number, at the same time
    os.utime(paths[2], (30, 30))
    assert find_checkpoint(None, tmp_path) == paths[2]
    assert find_runs(tmp_path, "last", "best") == [path.parents[1] for path in paths[::-1]]
    assert find_runs(tmp_path, "last") == []


def test_a_folder_that_is_not_named_as_runs_are_is_ignored(tmp_path: Path) -> None:
    for name in ("version_1", "version_2_copy", "version_x"):
        folder = tmp_path / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").touch()
    assert find_runs(tmp_path, "best") == [tmp_path / "version_1"]


def test_a_folder_means_the_best_checkpoint_of_that_run_or_of_the_newest_in_it(
    tmp_path: Path,
) -> None:
    best = tmp_path / "name" / "version_1" / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    with pytest.raises(UserError, match=r"no best\.ckpt in .*version_1: train a model first"):
        find_checkpoint(best.parents[1])
    best.touch()
    for folder in (best.parent, *best.parents[1:3]):
        assert find_checkpoint(folder) == best
    assert find_checkpoint("some.ckpt") == Path("some.ckpt")


def test_the_options_of_a_run_are_in_its_folder(tmp_path: Path, module: ShakespeareLM) -> None:
    folder = a_run(tmp_path, 1, module, "last")
    assert resolve_checkpoint("last", tmp_path).config_file is None
    config = tmp_path / "version_1" / "config.yaml"
    config.touch()
    for given in ("last", str(folder / "last.ckpt"), str(folder), str(folder.parent)):
        assert resolve_checkpoint(given, tmp_path).config_file == config


@pytest.mark.parametrize(
    ("folder", "given"),
    [("version_1/checkpoints", "last.ckpt"), ("version_1/checkpoints", "."),
     ("version_1", "checkpoints/last.ckpt"), ("version_1", "."), ("other", "../version_1")],
)  # fmt: skip
def test_the_options_of_a_run_are_found_from_any_folder(
    tmp_path: Path, module: ShakespeareLM, monkeypatch: pytest.MonkeyPatch, folder: str, given: str
) -> None:
    a_run(tmp_path, 1, module, "last")
    (tmp_path / "other").mkdir()
    config = tmp_path / "version_1" / "config.yaml"
    config.touch()
    monkeypatch.chdir(tmp_path / folder)
    found = resolve_checkpoint(given).config_file
    assert found
    assert found.resolve() == config.resolve()


def test_a_config_beside_a_checkpoint_belongs_to_it_if_it_is_named_as_those_of_runs(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    (tmp_path / "config.yaml").touch()
    for name, expected in (("best", tmp_path / "config.yaml"), ("a", None)):
        path = save(tmp_path / f"{name}.ckpt", module)
        assert resolve_checkpoint(str(path)).config_file == expected


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


def test_the_folder_of_a_run_means_its_last_checkpoint(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    older = a_run(tmp_path, 1, module, "best", "last")
    a_run(tmp_path, 2, module, "best", "last")
    assert resolve_checkpoint(str(older.parent), tmp_path).path == older / "last.ckpt"
    for path in older.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no last\.ckpt in .*version_1: train a model first"):
        resolve_checkpoint(str(older.parent), tmp_path)


def test_last_is_the_one_with_the_most_steps_if_it_could_not_be_written_on_a_full_disk(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    folder = a_run(tmp_path, 1, module, "last")
    save(folder / "best.ckpt", module, global_step=5)
    assert resolve_checkpoint("last", tmp_path).path == folder / "best.ckpt"
    save(folder / "last.ckpt", module, global_step=5)
    assert resolve_checkpoint("last", tmp_path).path == folder / "last.ckpt"


def test_a_checkpoint_without_the_state_of_the_training_cannot_be_resumed(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    folder = a_run(tmp_path, 1, module, "best", "last")
    content = torch.load(folder / "best.ckpt", weights_only=True)
    del content["optimizer_states"]
    torch.save(content, folder / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt has weights but no training state: resume"):
        resolve_checkpoint(str(folder / "best.ckpt"))
    assert resolve_checkpoint("last", tmp_path).path == folder / "last.ckpt"


def test_a_path_is_taken_as_it_is(tmp_path: Path, module: ShakespeareLM) -> None:
    a_run(tmp_path, 2, module, "last")
    path = a_run(tmp_path, 1, module, "best") / "best.ckpt"
    found = resolve_checkpoint(str(path), tmp_path)
    assert (found.path, found.step) == (path, 1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"best\.ckpt is damaged"):
        resolve_checkpoint(str(path), tmp_path)


def test_a_checkpoint_without_a_step_is_of_step_0(tmp_path: Path, module: ShakespeareLM) -> None:
    path = save(tmp_path / "a.ckpt", module)
    content = torch.load(path, weights_only=True)
    del content["global_step"]
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
    later = (newer / "best.ckpt").stat().st_mtime + 1  # file systems may tell times coarsely
    for path in older.iterdir():
        path.write_bytes(b"")
        os.utime(path, (later, later))
    with pytest.raises(UserError, match=r"version_0/checkpoints/last\.ckpt is damaged"):
        resolve_checkpoint("last", tmp_path)


def test_without_any_checkpoint_to_resume_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no last\.ckpt in {tmp_path}: train a model first"):
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
