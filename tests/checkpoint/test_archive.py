"""Which files are refused before torch reads them: code, damage, and archives of another form."""

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint.archive import check_archive
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save


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
        check_archive(path)
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Harmful(target)))
    with pytest.raises(UserError, match=r"b\.ckpt is damaged or not a checkpoint"):
        check_archive(tmp_path / "b.ckpt")
    assert not target.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_names_of_code_are_found_in_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    pickled = pickle.dumps(Harmful(tmp_path / "ran"), protocol)
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        check_archive(tmp_path / "a.ckpt")


def test_what_torch_saves_passes(tmp_path: Path, module: ShakespeareLM) -> None:
    check_archive(save(tmp_path / "a.ckpt", module))
    values = {"names": ["a", None, 1.5, True, (2, 3)], "half": torch.zeros(2).bfloat16()}
    torch.save(values, tmp_path / "b.ckpt")
    check_archive(str(tmp_path / "b.ckpt"))


def test_every_truncation_of_a_checkpoint_is_refused_in_one_line(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    whole = save(tmp_path / "a.ckpt", module).read_bytes()
    for size in range(0, len(whole), len(whole) // 25):
        (tmp_path / "cut.ckpt").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cut\.ckpt is damaged or not a checkpoint") as caught:
            check_archive(tmp_path / "cut.ckpt")
        assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_a_folder_and_an_address_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ckpt", tmp_path, "https://example.org/model.ckpt"):
        with pytest.raises(UserError, match=f"there is no checkpoint {path}: expected a .ckpt"):
            check_archive(path)


def test_a_bit_that_flipped_in_the_weights_is_noticed(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    path = save(tmp_path / "a.ckpt", module)
    whole = bytearray(path.read_bytes())
    weights = module.network.embedding.weight.detach().numpy().tobytes()
    whole[whole.index(weights) + 3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"the checksum of its a/data/\d+ does not match"):
        check_archive(path)


def rewritten(source: Path, target: Path, compression: int) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return target


def test_a_compressed_archive_is_refused(tmp_path: Path, module: ShakespeareLM) -> None:
    whole = save(tmp_path / "a.ckpt", module)
    check_archive(rewritten(whole, tmp_path / "stored.ckpt", zipfile.ZIP_STORED))
    with pytest.raises(UserError, match="is compressed or larger inside than its file"):
        check_archive(rewritten(whole, tmp_path / "packed.ckpt", zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a/data/0", "holds two members of the same name"),
        ("A/DATA/0", "holds two members of the same name"),  # torch's reader ignores case
        ("b/data.pkl", "it has 2 data.pkl"),
    ],
)
def test_an_archive_that_readers_could_disagree_about_is_refused(
    tmp_path: Path, module: ShakespeareLM, name: str, message: str
) -> None:
    whole = save(tmp_path / "a.ckpt", module)
    path = rewritten(whole, tmp_path / "b.ckpt", zipfile.ZIP_STORED)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.filterwarnings("ignore", "Duplicate name")
        archive.writestr(name, b"x")
    with pytest.raises(UserError, match=message):
        check_archive(path)


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ckpt"
    path.touch()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"^cannot read .*a\.ckpt: Permission denied$"):
        check_archive(path)
