"""The runs in a folder, their locks, and which checkpoint is meant: best, last, or a path."""

import os
import warnings
from pathlib import Path
from unittest.mock import Mock, call

import pytest
import torch

from shakespeare_lm.checkpoint import reading
from shakespeare_lm.checkpoint.runs import Run, find_checkpoint, find_runs, resolve_checkpoint
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save


def a_run(root: Path, number: int, module: ShakespeareLM, *names: str) -> Path:
    folder = root / f"version_{number}" / "checkpoints"
    folder.mkdir(parents=True)
    for name in names:
        save(folder / f"{name}.ckpt", module, global_step=number)
    return folder


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
    (tmp_path / "version_2_copy/checkpoints").mkdir(parents=True)
    (tmp_path / "version_2_copy/checkpoints/best.ckpt").touch()  # not a name of runs
    assert find_runs(tmp_path, "last", "best") == [Run(path.parents[1]) for path in paths[::-1]]
    assert find_runs(tmp_path, "last") == []


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
    with pytest.raises(UserError, match="there is no checkpoint ''"):
        find_checkpoint("")
    for path in ("x" * 5000, "x/" * 5000, "a\0"):  # more than the system allows
        with pytest.raises(UserError, match=r"^there is no checkpoint .{1,200}: expected"):
            resolve_checkpoint(path)
        with pytest.raises(UserError, match=r"^there is no checkpoint .{1,200}: expected"):
            Completer.from_checkpoint(f"{path}.safetensors")


@pytest.mark.parametrize(
    ("folder", "given"),
    [("version_1/checkpoints", "last.ckpt"), ("version_1/checkpoints", "."),
     ("version_1", "checkpoints/last.ckpt"), ("version_1", "."), ("other", "../version_1")],
)  # fmt: skip
def test_the_run_of_a_checkpoint_is_found_from_any_folder(
    tmp_path: Path, module: ShakespeareLM, monkeypatch: pytest.MonkeyPatch, folder: str, given: str
) -> None:
    a_run(tmp_path, 1, module, "last")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / folder)
    run = resolve_checkpoint(given).run
    assert run is not None
    assert (run.folder.resolve(), run.version) == (tmp_path / "version_1", 1)
    assert Run.of(tmp_path / "best.ckpt") == Run(tmp_path)
    assert Run.of(tmp_path / "a.ckpt") is None  # beside something else's config.yaml


def test_last_is_the_last_checkpoint_of_the_newest_run_and_a_folder_means_its_own(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    older = a_run(tmp_path, 2, module, "best", "last")
    folder = a_run(tmp_path, 10, module, "best", "last")
    found = resolve_checkpoint("last", tmp_path)
    assert (found.path, found.step) == (folder / "last.ckpt", 10)
    assert found.checkpoint.content["hyper_parameters"] == dict(module.hparams)
    assert resolve_checkpoint(str(older.parent), tmp_path).path == older / "last.ckpt"
    for path in older.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no last\.ckpt in .*version_2: train a model first"):
        resolve_checkpoint(str(older.parent), tmp_path)
    with pytest.raises(UserError, match=r"no last\.ckpt in .*empty: train a model first"):
        resolve_checkpoint("last", tmp_path / "empty")


def test_last_is_the_one_with_the_most_steps_if_it_could_not_be_written_on_a_full_disk(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    folder = a_run(tmp_path, 1, module, "last")
    save(folder / "best.ckpt", module, global_step=5)
    found = resolve_checkpoint("last", tmp_path)
    assert (found.path, found.last_is_older) == (folder / "best.ckpt", True)
    assert not resolve_checkpoint(str(folder / "best.ckpt")).last_is_older  # it was asked for
    save(folder / "last.ckpt", module, global_step=5)
    found = resolve_checkpoint("last", tmp_path)
    assert (found.path, found.last_is_older) == (folder / "last.ckpt", False)


def test_a_checkpoint_without_the_state_of_the_training_cannot_be_resumed(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    folder = a_run(tmp_path, 1, module, "best", "last")
    content = torch.load(folder / "best.ckpt", weights_only=True)
    del content["optimizer_states"], content["global_step"]
    torch.save(content, folder / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt has weights but no training state: resume"):
        resolve_checkpoint(str(folder / "best.ckpt"))
    assert resolve_checkpoint("last", tmp_path).path == folder / "last.ckpt"
    torch.save({**content, "optimizer_states": []}, folder / "best.ckpt")
    assert resolve_checkpoint(str(folder / "best.ckpt")).step == 0


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


def test_every_file_is_read_once(
    tmp_path: Path, module: ShakespeareLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(tmp_path, 0, module, "best", "last")
    folder = a_run(tmp_path, 1, module, "best", "last")
    (folder / "last.ckpt").write_bytes(b"")
    read = Mock(wraps=reading.read_archive)
    monkeypatch.setattr(reading, "read_archive", read)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the damaged one
        resolve_checkpoint("last", tmp_path)
    assert read.mock_calls == [call(folder / name) for name in ("last.ckpt", "best.ckpt")]


def test_a_folder_is_locked_by_one_process_and_what_a_killed_one_left_is_removed(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in (".last.ckpt.part", "best.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    assert not run.is_running()
    with run.lock():
        assert run.is_running()
        with pytest.raises(UserError, match="is in use: another process"):
            run.lock()
    assert not run.is_running()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["best.ckpt"]
    run.lock().release()


def test_a_run_knows_its_options_and_its_recipe(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert (run.options(), run.recipe) == ({}, "")
    run.config_file.write_text("data: {corpus: sample}\n")
    assert run.recipe == ""
    run.name_recipe("laptop")
    assert (run.options(), run.recipe) == ({"data": {"corpus": "sample"}}, "laptop")
    for damaged in (b"\xff", b"data: [", b"- 1"):
        run.config_file.write_bytes(damaged)
        assert (run.options(), run.recipe) == ({}, "")
