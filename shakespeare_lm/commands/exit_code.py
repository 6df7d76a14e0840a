"""A command -> its exit code, whatever happens to it and to its output.

Enters: a function. Leaves: 0, 1 after one line on stderr, or 130 after Ctrl-C.
"""

import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO

from shakespeare_lm.commands.standard_streams import OptionalOutput, show_warning
from shakespeare_lm.errors import UserError, one_line


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
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
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
