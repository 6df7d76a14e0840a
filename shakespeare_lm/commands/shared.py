"""What the scripts that read a checkpoint share: where text comes from and goes to, and how they
end.

Enters: options of the command line. Leaves: texts, files, and exit codes.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from shakespeare_lm.checkpoint.reading import newest_checkpoint
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.hardware import DEVICES, DTYPES

STDIN = "-"


def add_model_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that choose a checkpoint and where it runs."""
    add = parser.add_argument
    add("--ckpt", metavar="PATH", help="checkpoint (default: the newest run's best)")
    add("--device", choices=DEVICES, default="cpu", help="auto takes a GPU if there is one (cpu)")
    add("--dtype", choices=DTYPES, default="float32", help="of weights and cache (float32)")
    add(
        "--window",
        choices=("stride", "exact"),
        default="stride",
        help="when the context is full, go on with its newer half, or read all of it each time "
        "(stride)",
    )
    add(
        "--unknown",
        choices=("error", "skip", "replace"),
        default="error",
        help="characters never seen in training: refuse, leave out, or replace by their plain form "
        "or a space (error)",
    )
    add("--output", metavar="FILE", help="write to FILE instead of stdout, which is -")


def load_completer(arguments: argparse.Namespace, compile: bool = False) -> Completer:
    """Load the checkpoint that was asked for, or else the newest run's best, and say which."""
    path = newest_checkpoint("best") if arguments.ckpt is None else arguments.ckpt
    print(f"model: {path}", file=sys.stderr)
    return Completer.from_checkpoint(path, arguments.device, arguments.dtype, compile)


def read_text(path: str) -> str:
    """Return a UTF-8 file's text, or that of stdin for `-`, with lines that end in a newline alone.

    Raises:
        UserError: for other bytes than UTF-8.
        OSError: if the file cannot be read.
    """
    content = stdin().buffer.read() if path == STDIN else Path(path).read_bytes()
    return decoded(content, "stdin" if path == STDIN else path).replace("\r\n", "\n")


def stdin() -> TextIO:
    """Return the standard input.

    Raises:
        UserError: if the process was started without one.
    """
    if sys.stdin is None:
        raise UserError("stdin is closed: there is nothing to read")
    return sys.stdin


def decoded(content: bytes, name: str) -> str:
    """Return bytes as text, without the mark that some editors put before it.

    Raises:
        UserError: naming the first byte that is not UTF-8.
    """
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8: byte 0x{content[error.start]:02X} at offset {error.start}"
        ) from None


@contextmanager
def opened(path: str | None, *inputs: str | None) -> Iterator[TextIO]:
    """Open a file to write to, or stdout for None and `-`; errors of writing name the file.

    Raises:
        UserError: if it is one of the files that are read.
        OSError: if it cannot be written.
    """
    if path is None or path == STDIN:
        yield sys.stdout
        sys.stdout.flush()  # here, where a reader that has gone is met quietly
        return
    for other in inputs:
        if other and Path(other).exists() and Path(path).exists() and Path(path).samefile(other):
            raise UserError(f"output is {path}, which is read: choose another file")
    try:
        with Path(path).open(
            "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as file:
            yield file
    except OSError as error:
        # A full disk shows when writing, and its error knows no name.
        error.filename = error.filename or path
        raise


def run(command: Callable[[], int]) -> int:
    """Run a script's command, and return its exit code: 0, or after one clear line 1."""
    if sys.stdout is None:
        print("error: stdout is closed: there is nowhere to write to", file=sys.stderr)
        return 1
    # Any character of any text can be printed, whatever the terminal's encoding is said to be.
    sys.stdout.reconfigure(  # type: ignore[union-attr]
        encoding="utf-8", errors="backslashreplace", newline="\n"
    )
    try:
        return command()
    except BrokenPipeError:
        # The reader has gone, as `head` does: nothing more is to be written, nor said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
