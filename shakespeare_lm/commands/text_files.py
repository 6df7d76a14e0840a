"""The files that commands read and write; `-` stands for stdin and stdout. Mistakes are named
before any work is done.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from shakespeare_lm.data.tokenizer import decode_utf8
from shakespeare_lm.errors import UserError

STDIN = "-"


def read_text(path: str) -> str:
    """Return the text of a UTF-8 file, or of stdin for `-`, with line feeds as line ends; a
    `UserError` says that it is not UTF-8, an OSError that it cannot be read.
    """
    content = stdin().buffer.read() if path == STDIN else Path(path).read_bytes()
    return decode_utf8(content, "stdin" if path == STDIN else path).replace("\r\n", "\n")


def stdin() -> TextIO:
    """Return the standard input; a `UserError` says that the process was started without one."""
    if sys.stdin is None:
        raise UserError("stdin is closed: nothing to read")
    return sys.stdin


def check_output(path: str | None, *inputs: str | Path | None) -> None:
    """Refuse a file that cannot be written, is an input of the command or a checkpoint, before any
    work is done for it; links are followed.

    Raises:
        UserError: if it is an input or a checkpoint.
        OSError: if it is a folder, its folder does not exist, or it may not be written.
    """
    if path is None or path == STDIN:
        return
    target = Path(path)
    for error, fails in (
        (errno.ENOENT, not target.parent.is_dir()),
        (errno.EISDIR, target.is_dir()),
        (errno.EACCES, not os.access(target if target.exists() else target.parent, os.W_OK)),
    ):
        if fails:
            raise OSError(error, os.strerror(error), path)
    if not target.exists():
        return
    for other in inputs:
        if other and Path(other).exists() and target.samefile(other):
            raise UserError(f"output is {path}, which is an input: choose another file")
    if target.resolve().suffix == ".ckpt":
        raise UserError(f"output is {path}, which is a checkpoint: choose another file")


@contextmanager
def opened(path: str | None) -> Iterator[TextIO]:
    """Open a file for writing, or stdout for None and `-`; an OSError names the file."""
    try:
        if path is None or path == STDIN:
            yield sys.stdout
            sys.stdout.flush()  # here, where `run` handles a closed pipe or a full disk
            return
        with Path(path).open(
            "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as file:
            yield file
    except OSError as error:
        # The error of a full disk has no file name.
        error.filename = error.filename or ("stdout" if path in (None, STDIN) else path)
        raise


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
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_bytes(content)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
