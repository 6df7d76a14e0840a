"""What the commands share: the options of a model, text input and output, and exit codes.

Enters: options of the command line. Leaves: texts, files, and exit codes.
"""

import argparse
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress

from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.text import decode_utf8
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.hardware import DEVICES, DTYPES

STDIN = "-"
# A progress bar for less than this would only flicker.
_SECONDS_WITHOUT_BAR = 2.0


def add_model_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that choose a checkpoint and the device it runs on."""
    add = parser.add_argument
    add(
        "--ckpt",
        metavar="PATH",
        help="a checkpoint, or the folder of a run (default: the newest run's best)",
    )
    add(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="auto takes a GPU if there is one (cpu)",
    )
    add("--dtype", choices=DTYPES, default="float32", help="of weights and cache (float32)")
    add(
        "--window",
        choices=("stride", "exact"),
        default="stride",
        help="a full context window restarts with its newer half (stride, the default), or moves "
        "on by one character and is read again each time (exact)",
    )
    add(
        "--unknown",
        choices=("error", "skip", "replace"),
        default="error",
        help="characters never seen in training: refuse, drop, or replace with their plain form or "
        "a space (default: error)",
    )
    add("--output", metavar="FILE", help="write to FILE instead of stdout (-)")


def load_completer(
    arguments: argparse.Namespace, *inputs: str | None, compile: bool = False
) -> Completer:
    """Load the given checkpoint, or the best of the newest run, and print its path to stderr.

    Raises:
        UserError: if the checkpoint cannot be read, or the output is a file that must not be
            overwritten: a checkpoint, or one of the other `inputs` of the command.
    """
    path = find_checkpoint(arguments.ckpt)
    check_output(arguments.output, path, *inputs)
    print(f"model: {path}", file=sys.stderr)
    return Completer.from_checkpoint(path, arguments.device, arguments.dtype, compile)


def read_text(path: str) -> str:
    """Return the text of a UTF-8 file, or of stdin for `-`, with line feeds as line ends.

    Raises:
        UserError: if it is not UTF-8.
        OSError: if the file cannot be read.
    """
    content = stdin().buffer.read() if path == STDIN else Path(path).read_bytes()
    return decode_utf8(content, "stdin" if path == STDIN else path).replace("\r\n", "\n")


def stdin() -> TextIO:
    """Return the standard input.

    Raises:
        UserError: if the process was started without one.
    """
    if sys.stdin is None:
        raise UserError("stdin is closed: nothing to read")
    return sys.stdin


def check_output(path: str | None, *inputs: str | Path | None) -> None:
    """Refuse to overwrite a file that the command reads, or any checkpoint; links are followed."""
    if path is None or path == STDIN or not Path(path).exists():
        return
    for other in inputs:
        if other and Path(other).exists() and Path(path).samefile(other):
            raise UserError(f"output is {path}, which is an input: choose another file")
    if Path(path).resolve().suffix == ".ckpt":
        raise UserError(f"output is {path}, which is a checkpoint: choose another file")


@contextmanager
def opened(path: str | None) -> Iterator[TextIO]:
    """Open a file for writing, or stdout for None and `-`; write errors name the file.

    Raises:
        OSError: if it cannot be written.
    """
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


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that is told how much of how much is done. If it takes long, and stderr is a
    terminal, it draws a progress bar there.
    """
    console = Console(stderr=True)
    # Only the file knows: a variable like FORCE_COLOR makes rich take a pipe for a terminal.
    hidden = not (console.file.isatty() and console.is_interactive)
    bar = Progress(console=console, transient=True, disable=hidden)
    task, started = bar.add_task(description), time.monotonic()

    def draw(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if time.monotonic() - started >= _SECONDS_WITHOUT_BAR:
            bar.start()

    try:
        yield draw
    finally:
        bar.stop()


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit code: 0, or 1 after one line on stderr."""
    # What stderr does not take is dropped: the text on stdout is worth more.
    stderr, sys.stderr = sys.stderr, OptionalOutput(sys.stderr)
    try:
        if sys.stdout is None:
            print("error: stdout is closed: nowhere to write to", file=sys.stderr)
            return 1
        # Any text can be printed, whatever encoding the terminal claims to have.
        sys.stdout.reconfigure(  # type: ignore[union-attr]
            encoding="utf-8", errors="backslashreplace", newline="\n"
        )
        return _exit_code(command)
    finally:
        sys.stderr = stderr


def _exit_code(command: Callable[[], int]) -> int:
    try:
        exit_code = command()
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:
        return 0  # the reader has closed the pipe, as `head` does: end quietly
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        # What is left would fail again when Python exits, with exit code 120.
        _flush_or_drop(sys.stdout)


def _flush_or_drop(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class OptionalOutput:
    """A stream that can be closed, be full, or lose its reader, as with `head`: the rest of the
    output is dropped.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # A process that was started with `>&-` has no stream.
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115
        self._stream.reconfigure(errors="replace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare_console() -> None:
    """Keep advertisements, and warnings that a user cannot act on, off the console.

    Characters that the console's encoding lacks are printed as "?", and training continues when
    nobody reads its output any more.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # for --profiler
    warnings.showwarning = _show_warning
    threading.excepthook = _thread_failed
    sys.stdout, sys.stderr = OptionalOutput(sys.stdout), OptionalOutput(sys.stderr)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Print one line if TensorBoard's thread cannot write; the run then ends with that error."""
    if isinstance(failed.exc_value, OSError):
        reason = one_line(failed.exc_value)
        print(f"warning: the log cannot be written: {reason}", file=sys.stderr)
    else:
        threading.__excepthook__(failed)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if not isinstance(message, DeprecationWarning | FutureWarning):  # for developers of libraries
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
