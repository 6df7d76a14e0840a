"""Starts a command by its name: `shakespeare-lm fit`, `python -m shakespeare_lm fit`, or a script.

Imports nothing slow itself, so that Ctrl-C during the imports, which take seconds, ends the program
quietly.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import shakespeare_lm
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.invocation import COMMANDS, program

_SECONDS_IN_SILENCE = 2.0
INTERRUPTED_EXIT_CODE = 130  # 128 + SIGINT, as shells have it


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first word names, and return its exit code; without one, print the
    help.
    """
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=program(), usage="%(prog)s COMMAND [options]",
        description="A small causal transformer that learns Shakespeare character by character.",
        epilog="COMMAND --help shows the options of a command.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=version("shakespeare-lm"))
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    # Only the first word: the command parses its own options.
    parser.parse_args(words[:1])
    if not words:
        parser.print_help()
        return 0
    return run_command(words[0], words[1:])


def run_command(name: str, arguments: list[str]) -> int:
    """Import a command and run it; return its exit code."""
    try:
        package = Path(shakespeare_lm.__file__).parent
        if not package.is_dir():  # other programs read its files too
            raise UserError(f"{package} is in an archive: unpack it, or install it with pip")
        with _quiet_interrupts(), _announced():
            command = import_module(f"shakespeare_lm.commands.{name}")
    except (UserError, MemoryError, ImportError, SystemError) as error:
        # An ImportError says that a library could not be mapped, or the installation is broken.
        if isinstance(error, ImportError) and "map segment" not in str(error):
            raise
        memory = "not enough memory to load PyTorch (see ulimit -v)"
        reason = one_line(error) if isinstance(error, UserError) else memory
        print(f"error: {reason}", file=sys.stderr)
        return 1
    exit_code: int = command.main(arguments)
    return exit_code


@contextmanager
def _quiet_interrupts() -> Iterator[None]:
    """End the process at Ctrl-C, at once and without a traceback.

    A KeyboardInterrupt would not do: some libraries catch it while they are being imported.
    """
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.default_int_handler:  # not if a shell has told us to ignore it
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED_EXIT_CODE))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _announced() -> Iterator[None]:
    """Say on a terminal what takes so long."""
    message = "loading PyTorch and Lightning ..."
    timer = threading.Timer(_SECONDS_IN_SILENCE, lambda: print(message, file=sys.stderr))
    timer.daemon = True
    if sys.stderr is not None and sys.stderr.isatty():
        with suppress(RuntimeError):  # no threads to be had: the command will say so
            timer.start()
    try:
        yield
    finally:
        timer.cancel()
