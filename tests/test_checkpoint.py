"""Which file a run left, and what a file may hold."""

import pickle
from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint import newest_checkpoint, read_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.module import ShakespeareLM
from tests.conftest import save


@pytest.fixture
def module() -> ShakespeareLM:
    return ShakespeareLM("\nabc", context_length=8, num_layers=1, num_heads=2, d_model=8)


class Harmful:
    """Pickles into a call that would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


def test_a_checkpoint_that_holds_code_is_refused_and_nothing_runs(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    target = tmp_path / "ran"
    path = save(tmp_path / "a.ckpt", module, extra=Harmful(target))
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        read_checkpoint(path)
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Harmful(target)))
    with pytest.raises(UserError, match=r"b\.ckpt is damaged or no checkpoint"):
        read_checkpoint(tmp_path / "b.ckpt")
    assert not target.exists()


def test_every_truncation_of_a_checkpoint_is_refused_in_one_line(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    whole = save(tmp_path / "a.ckpt", module).read_bytes()
    for size in range(0, len(whole), len(whole) // 25):
        (tmp_path / "cut.ckpt").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cut\.ckpt is damaged or no checkpoint") as caught:
            read_checkpoint(tmp_path / "cut.ckpt")
        assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_a_folder_and_an_address_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ckpt", tmp_path, "https://example.org/model.ckpt"):
        with pytest.raises(UserError, match=f"there is no checkpoint {path}"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        {"model": torch.zeros(3)},
        [1, 2],
        {"state_dict": {}, "hyper_parameters": {"d_model": 8}},
        {"state_dict": {}},
    ],
)
def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt is a checkpoint of another program"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_the_newest_run_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    for number in (0, 9, 10):
        folder = tmp_path / f"version_{number}" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").touch()
    (tmp_path / "version_11" / "checkpoints").mkdir(parents=True)
    assert newest_checkpoint("best", tmp_path).parts[-3] == "version_10"
    with pytest.raises(UserError, match=r"no last\.ckpt in"):
        newest_checkpoint("last", tmp_path)
