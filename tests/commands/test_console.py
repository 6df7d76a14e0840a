"""What commands share: exit codes, output streams that may be closed, full or unread, warnings, the
progress bar, and the options that choose a model.
"""

import argparse
import io
import os
import sys
import threading
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from shakespeare_lm.commands.console import OptionalOutput, UsageError, progress_bar, run
from shakespeare_lm.commands.model_options import add_shared, load_completer
from shakespeare_lm.commands.text_files import opened
from shakespeare_lm.errors import UserError, one_line, printable
from tests.commands.conftest import replace_stdout, run_process

SCRIPT = Path(__file__).parents[2] / "scripts" / "complete.py"


def fail(error):
    raise error


def test_any_character_can_be_printed_and_the_exit_code_is_that_of_the_command(monkeypatch):
    stdout = replace_stdout(monkeypatch)
    assert [run(lambda code=code: print("é→\ud800") or code) for code in (0, 1)] == [0, 1]
    assert stdout.buffer.getvalue() == 2 * "é→\\ud800\n".encode()


CONTROLS = "a\x1b]0;title\x07\r\x7f\x9b1m\u202e\u2066\t\né\u2028"
ESCAPED = "a\\x1b]0;title\\x07\\r\\x7f\\x9b1m\\u202e\\u2066\t\né\u2028"


@pytest.mark.parametrize(("terminal", "shown"), [(True, ESCAPED), (False, CONTROLS)])
def test_a_text_cannot_control_a_terminal_and_is_unchanged_elsewhere(
    monkeypatch, capsys, terminal, shown
):
    def command() -> int:
        print(CONTROLS)
        with opened("-") as output:
            output.write(CONTROLS)
        Console(force_terminal=True, color_system="standard").print("red", style="red")
        Console(stderr=True, force_terminal=True).print("bold", style="bold")
        print(CONTROLS, file=sys.stderr)
        raise UserError(CONTROLS)

    stdout = replace_stdout(monkeypatch)
    monkeypatch.setattr(stdout, "isatty", lambda: terminal)
    assert run(command) == 1
    assert sys.stdout is stdout
    red = "\x1b[31mred\x1b[0m\n"  # what this program itself colours
    assert stdout.buffer.getvalue().decode() == f"{shown}\n{shown}{red}"
    line = one_line(UserError(CONTROLS))
    assert line == printable(" ".join(CONTROLS.split()))
    assert capsys.readouterr().err == f"\x1b[1mbold\x1b[0m\n{ESCAPED}\nerror: {line}\n"


def test_a_sample_of_a_training_cannot_control_a_terminal(tiny_fit, capsys):
    Path("own.txt").write_text("\x1b[31m\n" * 300)
    tiny_fit("--data.corpus=own.txt", "--max_steps=1", "--sample.max_new_tokens=60")
    shown = capsys.readouterr().out
    assert r"\x1b" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("top_k is 0:\n  expected more"), 1, "error: top_k is 0: expected more\n"),
        (FileNotFoundError(2, "No such file", "a.txt"), 1, "error: a.txt: No such file\n"),
        (UsageError("no such option"), 2, "error: no such option\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_mistakes_are_one_line_and_stderr_is_given_back(capsys, error, code, message):
    stderr = sys.stderr
    assert run(lambda: fail(error)) == code
    assert capsys.readouterr().err == message
    assert sys.stderr is stderr


def test_a_warning_is_one_line(capsys):
    def command() -> int:
        warnings.simplefilter("always")
        warnings.warn("the text\nis another", stacklevel=1)
        return 0

    showwarning = warnings.showwarning
    assert run(command) == 0
    assert capsys.readouterr().err == "warning: the text is another\n"
    assert warnings.showwarning is showwarning


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error), match="a bug"):
        run(lambda: fail(error))


def test_a_process_without_stdout_has_nowhere_to_write(monkeypatch, capsys):
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
def test_text_comes_without_stderr_but_not_without_stdout(runs, redirection, code, error):
    command = f"{sys.executable} {SCRIPT} --prompt=To --max_new_tokens=4 --greedy {redirection}"
    done = run_process(command, runs)
    assert done.returncode == code
    assert len(done.stdout) == (len("To") + 4 + 1 if code == 0 else 0)
    assert "model" not in done.stdout
    errors = [line for line in done.stderr.splitlines() if not line.startswith("model: ")]
    assert errors == ([] if error is None else [error])


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


def test_the_console_shows_any_character_and_only_warnings_that_a_user_can_act_on():
    done = run_process([sys.executable, "-W", "always", "-c", CONSOLE], PYTHONIOENCODING="ascii")
    assert done.stdout == "D? ?\n"
    warning, log, *bug = done.stderr.splitlines()
    assert warning == "warning: the split"
    assert log == "warning: the log cannot be written: No space left on device"
    assert bug[-1] == "RuntimeError: a bug"
    assert "library" not in done.stderr
    assert done.stderr.count("Traceback") == 1


def test_an_optional_output_that_is_closed_full_or_unread_drops_what_it_is_given():
    reading, writing = os.pipe()
    unread = OptionalOutput(os.fdopen(writing, "w"))
    unread.write("first\n")
    unread.flush()
    assert os.read(reading, 100) == b"first\n"
    os.close(reading)
    full = OptionalOutput(open("/dev/full", "w"))  # noqa: SIM115
    # What is short is refused when it is flushed, what is long when it is written.
    for output, text in ((unread, "x"), (full, "x" * 100_000), (OptionalOutput(None), "x")):
        for _ in range(3):
            assert output.write(text) == len(text)
            output.flush()
        assert output.isatty() is False  # all else is the stream's own
        output.close()


@pytest.mark.parametrize(
    ("terminal", "rings", "shown"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_long_work_shows_a_bar_in_a_terminal(monkeypatch, terminal, rings, shown):
    stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(stderr, "isatty", lambda: terminal)
    # Instead of waiting, the timer rings at once, or never.
    monkeypatch.setattr(threading.Timer, "start", lambda timer: rings and timer.function())
    monkeypatch.setattr(threading.Timer, "join", lambda timer: None)
    monkeypatch.setattr(sys, "stderr", stderr)
    before = []

    def work() -> int:
        with progress_bar("scoring [b]\x9b") as progress:
            before.append(stderr.buffer.getvalue().decode())
            for done in range(3):
                progress(done + 1, 3)
        return 0

    assert run(work) == 0
    text = stderr.buffer.getvalue().decode()
    assert (r"scoring [b]\x9b" in before[0]) == ("100%" in text) == shown
    assert bool(text) == shown == ("\x1b[" in text)
    assert r"\x1b" not in text


def test_the_newest_runs_best_checkpoint_is_the_default(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    parser = argparse.ArgumentParser()
    add_shared(parser, "ckpt", "device", "dtype", "output")
    newest = load_completer(parser.parse_args([]))
    assert capsys.readouterr().err == "model: lightning_logs/version_1/checkpoints/best.ckpt\n"
    older = runs / "lightning_logs/version_0/checkpoints/best.ckpt"
    options = parser.parse_args(["--ckpt", str(older), "--dtype", "bfloat16"])
    load_completer(options, compile=True)
    said = f"model: {older}, in bfloat16, compiling, which takes ten seconds or more\n"
    assert capsys.readouterr().err == said
    given = load_completer(options)
    assert capsys.readouterr().err == f"model: {older}, in bfloat16\n"
    assert newest.complete("To", 20, greedy=True) != given.complete("To", 20, greedy=True)
    dtypes = [next(c.network.parameters()).dtype for c in (newest, given)]
    assert list(map(str, dtypes)) == ["torch.float32", "torch.bfloat16"]
