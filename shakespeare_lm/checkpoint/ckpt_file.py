"""A `.ckpt` file from anybody -> its content, if it is complete and nothing in it could run.

torch.load(weights_only=True) runs no code, but trusts sizes and compares no checksums: after these
checks, memory and time stay in proportion to the file.
"""

import pickletools
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from shakespeare_lm.errors import UserError

EXPECTED = "expected a .ckpt file written by training"
# A large model's tree of names and sizes takes a tenth of these.
_MAX_PICKLE_BYTES = 16 << 20
_MAX_OPERATIONS = 1_000_000
_TYPES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")
_HARMLESS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {name}Storage" for name in _TYPES),
}
# What zipfile raises for files that are not zip archives, and for damaged ones.
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, KeyError)


def read_archive(path: str | Path) -> Any:
    """Return tensors, on the CPU, and plain values; a file with anything else is a `UserError`."""
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as many kinds as there are ways to be wrong
        raise _damaged(path, error) from None


def check_archive(path: str | Path) -> None:
    """Raise a `UserError` unless a file is an undamaged archive of tensors and plain values, which
    names no functions or classes that checkpoints of this program do not need.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}: {EXPECTED}")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_form(archive.infolist(), bool(archive.comment), Path(path).stat().st_size)
            _check_pickle(archive)
            damaged = archive.testzip()  # torch does not compare checksums
        if damaged is not None:
            raise UserError(f"is damaged: the checksum of its {damaged} does not match")
    except UserError as error:
        raise UserError(f"{path} {error}; {EXPECTED}") from None
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except _DAMAGE as error:
        raise _damaged(path, error) from None


def _damaged(path: str | Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path} is damaged or not a checkpoint: {reason}; {EXPECTED}")


def _check_form(members: list[zipfile.ZipInfo], has_comment: bool, file_bytes: int) -> None:
    """Refuse what torch.save does not write, and torch and Python could read differently."""
    names = [member.filename.lower() for member in members]  # torch's reader ignores case
    if has_comment or min((member.header_offset for member in members), default=0) > 0:
        raise UserError("is damaged or not a checkpoint: it is more than a zip archive")
    if len(set(names)) < len(names):
        raise UserError("holds two members of the same name")
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > file_bytes:
        raise UserError("is compressed or larger inside than its file")


def _check_pickle(archive: zipfile.ZipFile) -> None:
    """Walk through the operations of the one pickle without executing them."""
    members = archive.infolist()
    pickles = [member for member in members if member.filename.lower().endswith("data.pkl")]
    if len(pickles) != 1:
        raise UserError(f"is damaged or not a checkpoint: it has {len(pickles)} data.pkl")
    size = pickles[0].file_size
    if size > _MAX_PICKLE_BYTES:
        raise UserError(f"describes its tensors in {size:,} bytes, more than {_MAX_PICKLE_BYTES:,}")
    operations = pickletools.genops(archive.read(pickles[0]))
    for number, (operation, argument, _) in enumerate(operations):
        if number > _MAX_OPERATIONS:
            raise UserError(f"has more than {_MAX_OPERATIONS:,} values")
        # Checkpoints name what they need only in GLOBAL; other operations hide the name.
        hidden = operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
        if hidden or (operation.name == "GLOBAL" and argument not in _HARMLESS):
            named = f" ({str(argument).replace(' ', '.')[:80]!r})" if argument else ""
            raise UserError(
                f"holds more than tensors and plain values, possibly code{named}: it was not loaded"
            )
