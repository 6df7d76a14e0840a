"""The files that commands read and write; `-` stands for stdin and stdout. Mistakes are named
before any work is done.
"""

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, TextIO
from zlib import crc32

from shakespeare_lm.data.tokenizer import decode_utf8
from shakespeare_lm.errors import UserError

STDIN = "-"
# Of an input; texts have a few MB, and some files no end.
MAX_BYTES = 64 << 20
_MODELS = (".ckpt", ".safetensors", ".onnx")
# What commands write beside the files of a run.
_OUTPUTS = (".html", ".json", ".jsonl", ".txt")
# Models under any other name, and TensorBoard's events, have a zero byte in their first bytes.
_HEAD_BYTES = 1 << 16


def read_text(path: str) -> str:
    """Return the text of a UTF-8 file, or of stdin for `-`, with line feeds as line ends; a
    `UserError` says that it is not UTF-8 or has no end, an OSError that it cannot be read.
    """
    name = input_name(path)
    with naming(name), opened_input(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:  # such as /dev/zero
        raise UserError(f"{name} is too long: expected a text of at most {MAX_BYTES:,} bytes")
    return decode_utf8(content, name).replace("\r\n", "\n")


def opened_input(path: str) -> AbstractContextManager[BinaryIO]:
    """Open a file to read its bytes, or stdin for `-`."""
    return nullcontext(stdin().buffer) if path == STDIN else Path(path).open("rb")


def input_name(path: str) -> str:
    """Return what to call an input in a message."""
    return "stdin" if path == STDIN else path


def stdin() -> TextIO:
    """Return the standard input; a `UserError` says that the process was started without one."""
    if sys.stdin is None:
        raise UserError("stdin is closed: nothing to read")
    return sys.stdin


def check_output(path: str | None, *inputs: str | Path | None) -> None:
    """Refuse an output that cannot be written, or would replace an input of the command, a model or
    a file of a run, before any work is done for it. Links are followed, and stdin and stdout may be
    redirected.

    Raises:
        UserError: if it would replace such a file.
        OSError: if it is a folder, its folder does not exist, or it may not be written.
    """
    output: str | int = 1 if path is None or path == STDIN else path
    if isinstance(output, str):
        _check_writable(Path(output))
    if not os.path.isfile(output):  # of a descriptor, such as that of stdout, too
        return
    what = _irreplaceable(Path(output).resolve()) if isinstance(output, str) else ""
    for given in (STDIN, *inputs):
        file = 0 if given == STDIN else given
        if file is not None and os.path.isfile(file) and os.path.samefile(output, file):
            what = "an input"
    if what:
        name = "stdout" if output == 1 else output
        raise UserError(f"output is {name}, which is {what}: choose another file")


def check_outputs(outputs: Mapping[str, str | None], *inputs: str | Path | None) -> None:
    """Check all outputs that are given, by the names of their options, as `check_output` does; and
    that no two are one file.
    """
    seen: dict[str, str] = {}
    for name, output in outputs.items():
        check_output(output, *inputs)
        if output is None:
            continue
        if (other := seen.setdefault(os.path.realpath(output), name)) != name:
            raise UserError(f"{other} and {name} are both {output}: choose two files")


def _check_writable(target: Path) -> None:
    for error, fails in (
        (errno.ENOENT, not target.parent.is_dir()),
        (errno.EISDIR, target.is_dir()),
        (errno.EACCES, not os.access(target if target.exists() else target.parent, os.W_OK)),
    ):
        if fails:
            raise OSError(error, os.strerror(error), str(target))


def _irreplaceable(target: Path) -> str:
    """Return what a file is that no output may replace; an empty text for any other."""
    if target.suffix in _MODELS:
        return "a model"
    folder = target.parent
    in_run = folder.name == "checkpoints" or any(folder.glob("checkpoints/*.ckpt"))
    if in_run and target.suffix not in _OUTPUTS:
        return "a file of a run"
    with target.open("rb") as file:
        return "not a text" if b"\0" in file.read(_HEAD_BYTES) else ""


@contextmanager
def opened(path: str | None) -> Iterator[TextIO]:
    """Open a file for writing, or stdout for None and `-`; an OSError names the file."""
    if path is None or path == STDIN:
        with naming("stdout"):
            yield sys.stdout
            sys.stdout.flush()  # here, where `run` handles a closed pipe or a full disk
        return
    with (
        naming(path),
        Path(path).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        yield file


def write_text(path: str, text: str) -> None:
    """Write a whole file, or leave what was there; `-` is stdout. An OSError names the file."""
    target = Path(path).resolve()
    if path == STDIN or (target.exists() and not target.is_file()):  # such as /dev/stdout
        with opened(path) as output:
            output.write(text)
    else:
        write_whole(path, text.encode("utf-8", "backslashreplace"))


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a whole file, or leave what was there. An OSError names the file."""
    target = Path(path).resolve()
    # One name for all attempts: the next one overwrites what a killed process left.
    part = target.with_name(f".{crc32(os.fsencode(target.name)):08x}.part")
    try:
        with naming(path):
            part.write_bytes(content)
            part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let an OSError name a file: that of a full disk has no name, others a temporary file's."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
