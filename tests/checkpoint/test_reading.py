"""Which file a run left, and what a file may hold."""

import pickle
from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint.reading import newest_checkpoint, newest_readable, read_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
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


def a_run(root: Path, number: int, module: ShakespeareLM, *names: str) -> Path:
    folder = root / f"version_{number}" / "checkpoints"
    folder.mkdir(parents=True)
    for name in names:
        save(folder / f"{name}.ckpt", module)
    return folder


def test_the_last_checkpoint_of_the_newest_run_is_gone_on_from(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    a_run(tmp_path, 2, module, "best", "last")
    folder = a_run(tmp_path, 10, module, "best", "last")
    assert newest_readable(tmp_path) == folder / "last.ckpt"


def test_a_damaged_last_falls_back_to_the_newest_that_is_not_and_says_so(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    older = a_run(tmp_path, 0, module, "best", "last")
    newer = a_run(tmp_path, 1, module, "best", "last")
    whole = (newer / "last.ckpt").read_bytes()
    (newer / "last.ckpt").write_bytes(whole[:-100])
    with pytest.warns(
        UserWarning, match=r"last\.ckpt is damaged .*; going on from .*1/.*best\.ckpt"
    ):
        assert newest_readable(tmp_path) == newer / "best.ckpt"
    (newer / "best.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"going on from .*version_0/.*last\.ckpt") as warned:
        assert newest_readable(tmp_path) == older / "last.ckpt"
    assert len(warned) == 2
    for path in older.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"version_1/checkpoints/last\.ckpt is damaged"):
        newest_readable(tmp_path)


def test_a_bit_that_flipped_in_the_weights_is_noticed(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    path = save(tmp_path / "a.ckpt", module)
    whole = bytearray(path.read_bytes())
    weights = module.transformer.embedding.weight.detach().numpy().tobytes()
    whole[whole.index(weights) + 3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"its a/data/\d+ has changed|Bad CRC"):
        read_checkpoint(path)
