"""What the commands share: text in and out, the default checkpoint, exit codes, the console."""

import argparse
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from shakespeare_lm.commands.shared import (
    OptionalOutput,
    add_model_options,
    check_output,
    load_completer,
    opened,
    read_text,
    run,
    stdin,
)
from shakespeare_lm.errors import UserError
from tests.commands.conftest import RunComplete

SCRIPT = Path(__file__).parents[2] / "scripts" / "complete.py"


def replace_stdout(monkeypatch: pytest.MonkeyPatch) -> io.TextIOWrapper:
    """Replace the standard output by one that, like a bad terminal, claims to know only ASCII."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


def test_the_newest_runs_best_checkpoint_is_the_default(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs)
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    newest = load_completer(parser.parse_args([]))
    assert capsys.readouterr().err == "model: lightning_logs/version_1/checkpoints/best.ckpt\n"
    older = runs / "lightning_logs/version_0/checkpoints/best.ckpt"
    given = load_completer(parser.parse_args(["--ckpt", str(older), "--dtype", "bfloat16"]))
    assert capsys.readouterr().err == f"model: {older}\n"
    assert newest.complete("To", 20, greedy=True) != given.complete("To", 20, greedy=True)
    dtypes = [next(c.transformer.parameters()).dtype for c in (newest, given)]
    assert list(map(str, dtypes)) == ["torch.float32", "torch.bfloat16"]


def test_text_is_read_without_a_mark_and_with_line_feeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"\xef\xbb\xbfTo\r\nbe \xc3\xa9\n"
    (tmp_path / "text.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert read_text(str(tmp_path / "text.txt")) == read_text("-") == "To\nbe é\n"


def test_marks_and_line_ends_of_windows_are_not_part_of_the_prompt(
    run_complete: RunComplete,
) -> None:
    options = ("--seed=1", "--max_new_tokens=5")
    plain = run_complete("--prompt=To\nbe", *options)
    assert run_complete("--prompt_file=-", *options, stdin=b"\xef\xbb\xbfTo\r\nbe") == plain


def test_a_prompt_that_is_not_utf_8_is_refused(run_complete: RunComplete, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"abc\xe9def")
    code, out, err = run_complete("--prompt_file", str(tmp_path / "prompt.txt"))
    assert (code, out) == (1, "")
    assert "prompt.txt is not UTF-8 text: invalid byte 0xE9 at offset 3" in err


@pytest.mark.slow
def test_closed_streams_are_named(runs: Path) -> None:
    for option, message in (
        ("--prompt=- <&-", "stdin is closed"),
        ("--jsonl=- <&-", "stdin is closed"),
        ("--interactive <&-", "stdin is closed"),
        (">&-", "stdout is closed"),
    ):
        script = f"exec {sys.executable} {SCRIPT} {option}"
        done = subprocess.run(["sh", "-c", script], cwd=runs, capture_output=True, text=True)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
def test_a_full_disk_is_one_line_that_names_the_file(run_complete: RunComplete) -> None:
    for options in (["--prompt=a"], ["--jsonl=-"]):
        code, _, err = run_complete(*options, "--output=/dev/full", stdin=b'{"prompt": "a"}')
        assert code == 1
        assert err.endswith("error: /dev/full: No space left on device\n")


def test_stdin_that_is_not_utf_8_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\xff")))
    with pytest.raises(UserError, match="stdin is not UTF-8 text: invalid byte 0xFF at offset 0"):
        read_text("-")


def test_a_process_without_stdin_has_nothing_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="stdin is closed"):
        stdin()


def test_output_goes_to_stdout_or_to_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stdout = replace_stdout(monkeypatch)
    for path in (None, "-"):
        with opened(path) as output:
            assert output is stdout
    (tmp_path / "out.txt").write_text("something longer from before")
    with opened(str(tmp_path / "out.txt")) as output:
        output.write("é\n\ud800\n")
    assert (tmp_path / "out.txt").read_bytes() == "é\n\\ud800\n".encode()


def test_no_output_overwrites_an_input_or_a_checkpoint_by_any_of_its_names(tmp_path: Path) -> None:
    path, link = tmp_path / "in.txt", tmp_path / "link.txt"
    path.write_text("kept")
    link.symlink_to(path)
    for output in (path, link, tmp_path / "." / "in.txt"):
        with pytest.raises(UserError, match="which is an input: choose another file"):
            check_output(str(output), None, "-", str(path))
    checkpoint, name = tmp_path / "best.ckpt", tmp_path / "text"
    checkpoint.write_bytes(b"")
    name.symlink_to(checkpoint)
    for output in (checkpoint, name):
        with pytest.raises(UserError, match="which is a checkpoint: choose another file"):
            check_output(str(output), str(path))
    for fine in (None, "-", str(tmp_path / "new.txt"), str(tmp_path / "new.ckpt")):
        check_output(fine, str(path), str(tmp_path / "none.txt"))


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


CONSOLE = """
import threading, warnings
from shakespeare_lm.commands.shared import prepare_console
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
