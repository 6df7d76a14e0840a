"""What every command shares: its frame from arguments to an exit code, output streams that may be
closed or full, warnings in one line, and a progress bar.
"""

import logging
import os
import sys
import threading
import warnings
from argparse import Action, ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NoReturn, TextIO

from shakespeare_lm.errors import UserError, one_line, printable
from shakespeare_lm.invocation import command_line

# A progress bar for less than this would only flicker.
_SECONDS_WITHOUT_BAR = 2.0


class UsageError(UserError):
    """Words on the command line that do not go together; the exit code is 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ": did you mean WORD?" with the known word that is most similar, to be added to an
    error; or an empty text, if none is.
    """
    # Without their dashes, which would make any two options similar.
    options = {option.lstrip("-"): option for option in known}
    nearest = get_close_matches(word.lstrip("-"), options, n=1)
    return f": did you mean {options[nearest[0]]}?" if nearest else ""


class _Help(ArgumentDefaultsHelpFormatter):
    """Adds the defaults to the help, but those of flags."""

    def _get_help_string(self, action: Action) -> str | None:
        if action.default is None or isinstance(action.default, bool | list):
            return action.help
        return super()._get_help_string(action)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (try {self.prog} --help)")

    def parse(self, words: list[str] | None, passes_on: bool = False) -> Namespace:
        """Parse all words; a `UsageError` names the first that is unknown, and the nearest. If they
        are to be passed on to another command, all that are unknown are in `rest`.
        """
        arguments, unknown = self.parse_known_args(words)
        if passes_on:
            arguments.rest, unknown = unknown, []
        if not unknown:
            return arguments
        word = next((word for word in unknown if word.startswith("-")), unknown[0]).split("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        raise UsageError(f"unknown argument {word}{did_you_mean(word, known)}")


def number(kind: type) -> Callable[[str], float]:
    """Return a function that reads an int or a float, but not `1_0` or digits of other scripts."""
    return lambda word: kind(word if word.isascii() and "_" not in word else "invalid")


def utf8(word: str) -> str:
    """Return a word that must be UTF-8; the type of options that are texts, unlike paths."""
    word.encode()
    return word


def command(
    name: str,
    description: str,
    add_options: Callable[[ArgumentParser], None],
    passes_on: bool = False,
) -> Callable[[Callable[[Namespace], int]], Callable[..., int]]:
    """Make a function of parsed options the `main` of a command, which takes the words typed (by
    default `sys.argv`) and returns an exit code. Words that are unknown are errors, unless the
    command passes them on: then they are in `rest`.
    """
    # jsonargparse would add 0.12 s to the start of `complete`, and make `--greedy` `--greedy true`.

    def decorate(function: Callable[[Namespace], int]) -> Callable[..., int]:
        def main(argv: list[str] | None = None) -> int:
            usage = "%(prog)s [options]" + (
                " [--config NAME] [options of fit]" if passes_on else ""
            )
            parser = _Parser(
                command_line(name), usage, description, formatter_class=_Help,
                allow_abbrev=not passes_on,
            )  # fmt: skip
            for kind in (int, float):
                parser.register("type", kind, number(kind))
            add_options(parser)
            return run(lambda: function(parser.parse(argv, passes_on)))

        return main

    return decorate


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit code: 1 or 2 after one line on stderr, 130 after Ctrl-C."""
    # What stderr does not take is dropped: the text on stdout is worth more.
    stdout, stderr = sys.stdout, sys.stderr
    sys.stderr = PrintableOutput(OptionalOutput(stderr))
    try:
        if sys.stdout is None:
            raise UserError("stdout is closed: nowhere to write to")
        # Any text can be printed, whatever encoding the terminal claims to have.
        sys.stdout.reconfigure(  # type: ignore[union-attr]
            encoding="utf-8", errors="backslashreplace", newline="\n"
        )
        if sys.stdout.isatty():
            sys.stdout = PrintableOutput(sys.stdout)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            exit_code = command()
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:
        return 0  # the reader has closed the pipe, as `head` does: end quietly
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    finally:
        if sys.stdout is not None:
            # What is left would fail again when Python exits, with exit code 120.
            _flush_or_drop(sys.stdout)
        sys.stdout, sys.stderr = stdout, stderr


class PrintableOutput:
    """Makes what is written to a stream `printable`, except for rich's colours: rich 15.0 takes
    the stream itself from an attribute of this name.
    """

    def __init__(self, stream: "TextIO | OptionalOutput") -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        return self.rich_proxied_file.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


class OptionalOutput:
    """A stream that may be closed, be full, or lose its reader, as with `head`: the rest of the
    output is dropped.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # A process that was started with `>&-` has no stream.
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
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
        print(f"warning: {one_line(Warning(message))}", file=sys.stderr)


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with the amounts done and in all. What takes longer than two seconds
    gets a progress bar, if stderr is a terminal.
    """
    # Here, because `complete` starts faster without them.
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(file=sys.stderr)  # which stays the same while rich redirects it
    # Only the file knows: a variable like FORCE_COLOR makes rich take a pipe for a terminal.
    hidden = not (console.file.isatty() and console.is_interactive)
    bar = Progress(console=console, transient=True, disable=hidden)
    task = bar.add_task(escape(printable(description)), total=None)
    # A timer, because some work does not say how much of it is done.
    timer = threading.Timer(_SECONDS_WITHOUT_BAR, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda done, total: bar.update(task, completed=done, total=total)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
