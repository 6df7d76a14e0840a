"""What a command returns, whatever happens to it and to its output."""

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from shakespeare_lm.commands.exit_code import run
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
