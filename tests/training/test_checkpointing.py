"""Checkpoints are written atomically, and a resumed run reads its checkpoint once."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint import reading
from shakespeare_lm.checkpoint.runs import resolve_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.training import checkpointing
from shakespeare_lm.training.checkpointing import AtomicCheckpointIO, renew_last

CONTENT = {"weights": torch.arange(100_000.0)}


def fail(*error: object) -> None:
    raise OSError(*error)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_holds_what_was_saved_and_no_other_file_is_left(tmp_path):
    folder = tmp_path / "deep"
    for _ in range(2):
        AtomicCheckpointIO().save_checkpoint(CONTENT, folder / "a.ckpt")
        loaded = torch.load(folder / "a.ckpt", weights_only=True)
        assert torch.equal(loaded["weights"], CONTENT["weights"])
        assert left_in(folder) == ["a.ckpt"]
        (folder / ".a.ckpt.part").write_bytes(b"half")  # of a killed process


def test_the_file_is_flushed_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    events: list[str] = []
    flush, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        complete = os.fstat(descriptor).st_size > CONTENT["weights"].nbytes
        events.append("flush the file" if complete else "flush the folder")
        flush(descriptor)

    def rename(self: Path, target: Path) -> Path:
        events.append(f"rename {self.name} to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    assert events == ["flush the file", "rename .a.ckpt.part to a.ckpt", "flush the folder"]
    monkeypatch.setattr(checkpointing, "_flush_folder", lambda _: fail(5, "Input/output error"))
    with pytest.raises(UserError, match=f"^cannot write {path}: Input/output error; the new file"):
        AtomicCheckpointIO().save_checkpoint({"weights": 0}, path)
    assert torch.load(path, weights_only=True) == {"weights": 0}


@pytest.mark.parametrize("room", [0, 1000, 300_000])
def test_a_full_disk_keeps_the_previous_file_and_says_so(tmp_path, room):
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.ckpt"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for kept in ("there is no previous file", "the previous file is kept"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # as if the disk were full
        try:
            with pytest.raises(UserError, match=f"cannot write {path}: File too large; {kept}"):
                AtomicCheckpointIO().save_checkpoint(CONTENT, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert left_in(tmp_path) == ([] if kept.startswith("there is no") else ["a.ckpt"])
        torch.save({"before": 1}, path)
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    assert torch.load(path, weights_only=True).keys() == CONTENT.keys()


def test_a_run_saves_its_initial_state_and_keeps_two_files(tiny_fit, monkeypatch):
    seen, original = [], AtomicCheckpointIO.save_checkpoint

    def save(self, checkpoint, path, storage_options=None):
        seen.append(checkpoint["global_step"])
        original(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save)
    cli = tiny_fit("--max_steps=4", "--val_check_interval=2")
    assert seen == [0, 2, 2, 4, 4]
    assert left_in(cli.last.path.parent) == ["best.ckpt", "last.ckpt"]


def test_a_checkpoint_is_read_once_and_a_damaged_one_refused(tiny_fit):
    path = tiny_fit("--max_steps=1").last.path
    resumed = resolve_checkpoint(str(path))
    plugin = AtomicCheckpointIO(resumed)
    assert plugin.load_checkpoint(path) is resumed.checkpoint.content
    other = path.with_name("best.ckpt")
    assert AtomicCheckpointIO(resumed).load_checkpoint(other) is not resumed.checkpoint.content
    # The file can have changed since: a second load reads it.
    assert plugin.load_checkpoint(path) is not resumed.checkpoint.content
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        plugin.load_checkpoint(path)


def test_a_resumed_run_reads_its_checkpoint_file_exactly_once(tiny_fit, monkeypatch):
    options = ("--model.decay_steps=4", "--max_steps")
    tiny_fit(*options, "2")
    read, original = [], reading.read_archive

    def read_archive(path):
        read.append(Path(path).name)
        return original(path)

    for module in (reading, checkpointing):
        monkeypatch.setattr(module, "read_archive", read_archive)
    assert tiny_fit(*options, "4", "--ckpt_path=last").trainer.global_step == 4
    assert read == ["last.ckpt"]


def test_last_is_renewed_from_a_newer_best_when_a_run_is_resumed(tiny_fit, monkeypatch):
    folder = Path(tiny_fit("--max_steps=4", "--val_check_interval=2").last.path).parent
    best, last = folder / "best.ckpt", folder / "last.ckpt"
    content = torch.load(last, weights_only=True)
    torch.save({**content, "global_step": 2}, last)
    torch.save(content, best)
    tiny_fit("--max_steps=4", "--val_check_interval=2", "--ckpt_path=last")  # nothing left to do
    assert last.read_bytes() == best.read_bytes()
    monkeypatch.setattr(shutil, "copyfile", lambda *_: fail(28, "full"))
    renew_last(best)
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
