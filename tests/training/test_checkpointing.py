"""A checkpoint is written whole, or the one before stays."""

import os
from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands.fit import ShakespeareCLI
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.checkpointing import WholeCheckpointIO
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Fit

CONTENT = {"weights": torch.arange(100_000.0)}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_what_was_saved_and_nothing_else_is_left(tmp_path: Path) -> None:
    WholeCheckpointIO().save_checkpoint(CONTENT, tmp_path / "deep" / "a.ckpt")
    loaded = torch.load(tmp_path / "deep" / "a.ckpt", weights_only=True)
    assert torch.equal(loaded["weights"], CONTENT["weights"])
    assert left_in(tmp_path / "deep") == ["a.ckpt"]


def test_it_is_flushed_before_it_takes_its_place_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    flush, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        whole = os.fstat(descriptor).st_size > CONTENT["weights"].nbytes
        events.append("flush the file" if whole else "flush the folder")
        flush(descriptor)

    def rename(self: Path, target: Path) -> Path:
        events.append(f"rename {self.name} to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    WholeCheckpointIO().save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    assert events == ["flush the file", "rename .a.ckpt.part to a.ckpt", "flush the folder"]


@pytest.mark.parametrize("room", [0, 1000, 300_000])
def test_a_full_disk_leaves_the_one_before_and_says_so(tmp_path: Path, room: int) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.ckpt"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for kept in ("nothing was saved before", "the one before is kept"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # as if the disk were full
        try:
            with pytest.raises(UserError, match=f"cannot write {path}: File too large; {kept}"):
                WholeCheckpointIO().save_checkpoint(CONTENT, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert left_in(tmp_path) == (["a.ckpt"] if path.exists() else [])
        torch.save({"before": 1}, path)
    WholeCheckpointIO().save_checkpoint(CONTENT, path)
    assert torch.load(path, weights_only=True).keys() == CONTENT.keys()


def test_what_a_killed_process_left_half_written_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.ckpt.part").write_bytes(b"half")
    WholeCheckpointIO().save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    assert left_in(tmp_path) == ["a.ckpt"]


def test_a_run_saves_its_start_and_keeps_two_files(tiny_fit: Fit) -> None:
    seen: list[int] = []
    original = WholeCheckpointIO.save_checkpoint

    def save(self, checkpoint, path, storage_options=None) -> None:
        seen.append(checkpoint["global_step"])
        original(self, checkpoint, path, storage_options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WholeCheckpointIO, "save_checkpoint", save)
        cli = tiny_fit("--max_steps=4", "--val_check_interval=2")
    assert seen == [0, 2, 2, 4, 4]
    assert left_in(cli.last.path.parent) == ["best.ckpt", "last.ckpt"]


def test_a_damaged_checkpoint_is_not_gone_on_from(tiny_fit: Fit) -> None:
    path = tiny_fit("--max_steps=1").last.path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        WholeCheckpointIO().load_checkpoint(path)


def test_the_seed_is_in_the_checkpoint_and_in_the_log(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli: ShakespeareCLI = tiny_fit("--max_steps=1", "--seed=7")
    assert torch.load(cli.last.path, weights_only=True)["hyper_parameters"]["seed"] == 7
    run = cli.last.path.parents[1]
    assert "seed_everything: 7" in (run / "config.yaml").read_text()
    assert "seed: 7" in (run / "hparams.yaml").read_text()
    assert ShakespeareLM.load_from_checkpoint(cli.last.path).hparams["seed"] == 7
