"""The console: what a command returns whatever happens to it, output streams that may be closed,
full or unread, warnings, and the progress bar.
"""

import io
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from shakespeare_lm.commands import console
from shakespeare_lm.commands.console import OptionalOutput, progress_bar, run
from shakespeare_lm.errors import UserError
from tests.commands.conftest import replace_stdout

SCRIPT = Path(__file__).parents[2] / "scripts" / "complete.py"


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


def test_a_command_that_succeeds_returns_its_exit_code() -> None:
    assert [run(lambda code=code: code) for code in (0, 1)] == [0, 1]


def test_any_character_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = replace_stdout(monkeypatch)

    def command() -> int:
        print("é→\ud800")
        return 0

    assert run(command) == 0
    assert stdout.buffer.getvalue() == "é→\\ud800\n".encode()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("top_k is 0:\n  expected more"), 1, "error: top_k is 0: expected more\n"),
        (FileNotFoundError(2, "No such file", "a.txt"), 1, "error: a.txt: No such file\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    assert run(raising(error)) == code
    assert capsys.readouterr().err == message


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        warnings.simplefilter("always")
        warnings.warn("the text\nis another", stacklevel=1)
        return 0

    showwarning = warnings.showwarning
    assert run(command) == 0
    assert capsys.readouterr().err == "warning: the text is another\n"
    assert warnings.showwarning is showwarning


def test_a_bug_keeps_its_traceback() -> None:
    for error in (ValueError("a bug"), RuntimeError("a bug")):
        with pytest.raises(type(error), match="a bug"):
            run(raising(error))


def test_a_process_without_stdout_has_nowhere_to_write(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run(lambda: 0) == 1
    assert "stdout is closed" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        ("2>&-", 0, None),
        ("2>/dev/full", 0, None),
        (">/dev/full", 1, "error: stdout: No space left on device"),
        (">/dev/full 2>/dev/full", 1, None),
        (">&- 2>&-", 1, None),
    ],
)
def test_without_stderr_the_text_still_comes_and_without_stdout_it_is_an_error(
    runs: Path, redirection: str, code: int, error: str | None
) -> None:
    command = f"{sys.executable} {SCRIPT} --prompt=To --max_new_tokens=4 --greedy {redirection}"
    # Buffered, as users have it: what cannot be written is found later.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["sh", "-c", command], cwd=runs, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code
    assert len(done.stdout) == (len("To") + 4 + 1 if code == 0 else 0)
    assert "model" not in done.stdout
    errors = [line for line in done.stderr.splitlines() if not line.startswith("model: ")]
    assert errors == ([] if error is None else [error])


def test_a_command_gives_stderr_back(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stderr", stderr)
    assert run(raising(UserError("a mistake"))) == 1
    assert sys.stderr is stderr
    stderr.flush()
    assert stderr.buffer.getvalue() == b"error: a mistake\n"


CONSOLE = """
import threading, warnings
from shakespeare_lm.commands.console import prepare_console
prepare_console()
print("Dé →")
warnings.warn("the\\n split", UserWarning)
warnings.warn("of a library", FutureWarning)
def fail(error):
    raise error
for error in (OSError(28, "No space left on device"), RuntimeError("a bug")):
    thread = threading.Thread(target=fail, args=(error,))
    thread.start()
    thread.join()
"""


def test_the_console_shows_any_character_and_only_warnings_that_a_user_can_act_on() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", CONSOLE],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "D? ?\n"
    warning, log, *bug = done.stderr.splitlines()
    assert warning == "warning: the split"
    assert log == "warning: the log cannot be written: No space left on device"
    assert bug[-1] == "RuntimeError: a bug"
    assert "library" not in done.stderr
    assert done.stderr.count("Traceback") == 1


def test_an_optional_output_that_is_closed_or_full_drops_what_it_is_given() -> None:
    for stream in (None, open("/dev/full", "w")):  # noqa: SIM115
        output = OptionalOutput(stream)
        for _ in range(2):
            assert output.write("x" * 100_000) == 100_000
            output.flush()
        output.close()


def test_output_that_nobody_reads_any_more_is_dropped() -> None:
    reading, writing = os.pipe()
    stream = OptionalOutput(os.fdopen(writing, "w"))
    stream.write("first\n")
    stream.flush()
    assert os.read(reading, 100) == b"first\n"
    os.close(reading)
    for _ in range(3):
        assert stream.write("more\n") == 5
        stream.flush()
    assert stream.isatty() is False  # all else is the stream's own
    stream.close()


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def drawn(stderr: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch, seconds: float) -> str:
    """Return what is on stderr after some work."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(console, "_SECONDS_WITHOUT_BAR", seconds)
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress_bar("scoring") as progress:
        for done in range(3):
            progress(done + 1, 3)
    return stderr.buffer.getvalue().decode()  # type: ignore[attr-defined]


def test_what_takes_long_shows_its_progress_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminals = [Terminal(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    text = drawn(terminals[0], monkeypatch, 0.0)
    assert "scoring" in text
    assert "100%" in text
    assert drawn(terminals[1], monkeypatch, math.inf) == ""


def test_without_a_terminal_there_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    assert drawn(pipe, monkeypatch, 0.0) == ""
