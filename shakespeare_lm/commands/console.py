"""What every command shares: its frame from arguments to an exit code, output streams that may be
closed or full, warnings in one line, and a progress bar.
"""

import logging
import os
import sys
import threading
import time
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.invocation import command_line

# A progress bar for less than this would only flicker.
_SECONDS_WITHOUT_BAR = 2.0


def command(
    name: str, description: str, add_options: Callable[[ArgumentParser], None]
) -> Callable[[Callable[[Namespace], int]], Callable[..., int]]:
    """Make a function of parsed options the `main` of a command, which takes the words typed (by
    default `sys.argv`) and returns an exit code.
    """

    def decorate(function: Callable[[Namespace], int]) -> Callable[..., int]:
        def main(argv: list[str] | None = None) -> int:
            parser = ArgumentParser(prog=command_line(name), description=description)
            add_options(parser)
            arguments = parser.parse_args(argv)
            return run(lambda: function(arguments))

        return main

    return decorate


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit code, 1 after one line on stderr, or 130 after Ctrl-C."""
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
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
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


class OptionalOutput:
    """A stream that may be closed, be full, or lose its reader, as with `head`: the rest of the
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
            _drop(self._stream)
            return len(text)

    def flush(self) -> None:
        _flush_or_drop(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _flush_or_drop(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        _drop(stream)


def _drop(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
    """Print a warning as one line, without its location; replaces `warnings.showwarning`."""
    if not isinstance(message, DeprecationWarning | FutureWarning):  # for developers of libraries
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with the amounts done and in all. If it takes long, and stderr is a
    terminal, it draws a progress bar there.
    """
    # Here, because `complete` starts faster without them.
    from rich.console import Console
    from rich.progress import Progress

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
