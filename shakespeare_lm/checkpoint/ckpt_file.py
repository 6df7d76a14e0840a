"""A `.ckpt` file from anybody -> its content, if it is complete and nothing in it could run.

torch.load(weights_only=True) runs no code, but trusts sizes and compares no checksums: after these
checks, memory and time stay in proportion to the file.
"""

import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from shakespeare_lm.checkpoint.pickle_check import check_pickle
from shakespeare_lm.errors import UserError

EXPECTED = "expected a .ckpt file written by training"
_END_BYTES = 22  # of the last record of an archive that has no comment


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
    check_is_file(path)
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            _check_form(archive.infolist(), file)
            check_pickle(_pickle_of(archive))
            damaged = archive.testzip()  # torch does not compare checksums
        if damaged is not None:
            raise UserError(f"is damaged: the checksum of {damaged!r} does not match")
    except UserError as error:
        raise UserError(f"{path} {error}; {EXPECTED}") from None
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:
        raise _damaged(path, error) from None


def check_is_file(path: str | Path) -> None:
    """Raise a `UserError` unless a path is a regular file: a pipe or a device may never end."""
    if not os.path.isfile(path):
        shown, expected = str(path)[:200], EXPECTED
        if "," in shown:
            expected += f"; to make one model of several, distil them: --model.teachers {shown}"
        raise UserError(f"there is no checkpoint {shown}: {expected}")


def _damaged(path: str | Path, error: Exception) -> UserError:
    """Return an error with the first line of the reason, unless that is torch's advice to set
    `weights_only` to False, which would let code run.
    """
    reason, *_ = str(error).splitlines() or [""]
    if not reason or "weights_only" in reason:
        reason = type(error).__name__
    return UserError(f"{path} is damaged or not a checkpoint: {reason[:200]}; {EXPECTED}")


def _check_form(members: list[zipfile.ZipInfo], file: BinaryIO) -> None:
    """Refuse what torch.save does not write, and torch and Python could read differently."""
    names = [member.filename.lower() for member in members]  # torch's reader ignores case
    file_bytes = file.seek(-_END_BYTES, os.SEEK_END) + _END_BYTES
    has_more = file.read(4) != b"PK\x05\x06"  # a comment, or anything else
    if has_more or min((member.header_offset for member in members), default=0) > 0:
        raise UserError("is damaged or not a checkpoint: it is more than a zip archive")
    if len(set(names)) < len(names):
        raise UserError("holds two members of the same name")
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > file_bytes:
        raise UserError("is compressed or larger inside than its file")


def _pickle_of(archive: zipfile.ZipFile) -> bytes:
    pickles = [name for name in archive.namelist() if name.lower().endswith("data.pkl")]
    if len(pickles) != 1:
        raise UserError(f"is damaged or not a checkpoint: it has {len(pickles)} data.pkl")
    return archive.read(pickles[0])
