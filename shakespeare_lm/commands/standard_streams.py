"""stdout and stderr of a program that must not fail because nobody reads them.

Enters: streams that may be closed, full, or lose their reader. Leaves: streams that drop what
cannot be written, and a console without the messages of libraries.
"""

import logging
import os
import sys
import threading
import warnings
from typing import Any, TextIO

from shakespeare_lm.errors import one_line


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
    warnings.showwarning = show_warning
    threading.excepthook = _thread_failed
    sys.stdout, sys.stderr = OptionalOutput(sys.stdout), OptionalOutput(sys.stderr)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Print one line if TensorBoard's thread cannot write; the run then ends with that error."""
    if isinstance(failed.exc_value, OSError):
        reason = one_line(failed.exc_value)
        print(f"warning: the log cannot be written: {reason}", file=sys.stderr)
    else:
        threading.__excepthook__(failed)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, without the place in the code; in place of
    `warnings.showwarning`.
    """
    if not isinstance(message, DeprecationWarning | FutureWarning):  # for developers of libraries
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
