"""Before a checkpoint is loaded: is its file complete, and free of anything that could run?

torch.load(weights_only=True) runs no code, but trusts sizes and compares no checksums: after these
checks, memory and time stay in proportion to the file.
"""

import pickletools
import zipfile
import zlib
from pathlib import Path

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


def check_archive(path: str | Path) -> None:
    """Raise a `UserError` unless a file is an undamaged archive of tensors and plain values, which
    names no functions or classes that checkpoints of this program do not need.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}: {EXPECTED}")
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        with zipfile.ZipFile(path) as archive:
            _check_form(archive, path)
            _check_pickle(_read_pickle(archive, path), path)
            damaged = archive.testzip()  # torch does not compare checksums
    except UserError:
        raise
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or not a checkpoint: {reason}; {EXPECTED}") from None
    if damaged is not None:
        raise UserError(f"{path} is damaged: the checksum of its {damaged} does not match")


def _check_form(archive: zipfile.ZipFile, path: str | Path) -> None:
    """Refuse what torch.save does not write, and torch and Python could read differently."""
    members = archive.infolist()
    with Path(path).open("rb") as file:
        starts_with_a_member = file.read(4) == b"PK\x03\x04"
    if archive.comment or not starts_with_a_member:
        raise UserError(f"{path} is damaged or not a checkpoint: {EXPECTED}")
    # torch's reader ignores case.
    if len({member.filename.lower() for member in members}) < len(members):
        raise UserError(f"{path} holds two members of the same name: {EXPECTED}")
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > Path(path).stat().st_size:
        raise UserError(f"{path} is compressed or larger inside than its file: {EXPECTED}")


def _read_pickle(archive: zipfile.ZipFile, path: str | Path) -> bytes:
    members = archive.infolist()
    found = [member for member in members if member.filename.lower().endswith("data.pkl")]
    if len(found) != 1:
        raise UserError(f"{path} is damaged or not a checkpoint: it has {len(found)} data.pkl")
    if found[0].file_size > _MAX_PICKLE_BYTES:
        raise UserError(
            f"{path} describes its tensors in {found[0].file_size:,} bytes: expected at most "
            f"{_MAX_PICKLE_BYTES:,}"
        )
    return archive.read(found[0])


def _check_pickle(content: bytes, path: str | Path) -> None:
    """Walk through the pickle operations without executing them."""
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if number > _MAX_OPERATIONS:
            raise UserError(f"{path} has more than {_MAX_OPERATIONS:,} values: {EXPECTED}")
        # Checkpoints name what they need only in GLOBAL; other operations hide the name.
        hidden = operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
        if hidden or (operation.name == "GLOBAL" and argument not in _HARMLESS):
            named = f" ({str(argument).replace(' ', '.')[:80]!r})" if argument else ""
            raise UserError(
                f"{path} holds more than tensors and plain values, possibly code{named}: it was "
                f"not loaded; {EXPECTED}"
            )
