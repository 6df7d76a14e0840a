"""Which files are refused before torch reads them: code, damage, and archives of another form. The
system's hostile checkpoints are many more.
"""

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest

from shakespeare_lm.checkpoint import ckpt_file
from shakespeare_lm.checkpoint.ckpt_file import check_archive, read_archive
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
    tmp_path: Path, path: Path, module: ShakespeareLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(path, module, extra=Harmful(tmp_path / "ran"))
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        read_archive(path)
    # Even if the archive were not checked.
    monkeypatch.setattr(ckpt_file, "check_archive", lambda path: None)
    with pytest.raises(UserError, match=r"a\.ckpt is damaged or not a checkpoint") as caught:
        read_archive(path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch advises to switch it off
    path.write_bytes(pickle.dumps(Harmful(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"a\.ckpt is damaged or not a checkpoint"):
        check_archive(path)
    assert not (tmp_path / "ran").exists()


def test_a_bit_that_flipped_in_the_weights_is_noticed(path: Path, module: ShakespeareLM) -> None:
    whole = bytearray(save(path, module).read_bytes())
    weights = module.network.embedding.weight.detach().numpy().tobytes()
    whole[whole.index(weights) + 3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"the checksum of 'a/data/\d+' does not match"):
        check_archive(path)
    path.write_bytes(whole.replace(b"a/data/", b"a/da\na/"))  # a name in a message of one line
    with pytest.raises(UserError, match=r"the checksum of 'a/da\\na/\d+' does not match"):
        check_archive(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a/data/0", "holds two members of the same name"),
        ("A/DATA/0", "holds two members of the same name"),  # torch's reader ignores case
        ("b/data.pkl", "is damaged or not a checkpoint: it has 2 data.pkl"),
        ("comment", "is damaged or not a checkpoint: it is more than a zip archive"),
        ("prefix", "is damaged or not a checkpoint: it is more than a zip archive"),
        ("suffix", "is damaged or not a checkpoint: it is more than a zip archive"),
    ],
)
def test_an_archive_that_readers_could_disagree_about_is_refused(
    path: Path, module: ShakespeareLM, name: str, message: str
) -> None:
    save(path, module)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.filterwarnings("ignore", "Duplicate name")
        if name == "comment":
            archive.comment = b"more"
        elif name not in ("prefix", "suffix"):
            archive.writestr(name, b"x")
    if name == "prefix":
        path.write_bytes(b"PK\x03\x04 another archive" + path.read_bytes())
    elif name == "suffix":
        path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=message):
        check_archive(path)


def test_a_folder_and_a_file_that_may_not_be_read_are_not_called_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(UserError, match=f"there is no checkpoint {path.parent}: expected a .ckpt"):
        check_archive(path.parent)
    path.touch()
    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    with pytest.raises(UserError, match=r"^cannot read .*a\.ckpt: Permission denied$"):
        check_archive(path)
