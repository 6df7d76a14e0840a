"""Starting a command by its name, and Ctrl-C before it has started."""

import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

import shakespeare_lm
from shakespeare_lm.commands import start
from shakespeare_lm.commands.start import main
from shakespeare_lm.invocation import COMMANDS, command_line
from tests.commands.conftest import run_process

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(
    ("words", "code"), [(["--help"], 0), (["--version"], 0), (["bake"], 2), (["--nonsense"], 2)]
)
def test_words_that_name_no_command_are_answered_and_end_it(words, code, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == code
    shown, error = capsys.readouterr()
    if words == ["--version"]:
        assert shown.strip() == version("shakespeare-lm")
    elif code:
        assert "COMMAND" in error
    else:
        assert main([]) == 0  # the help too
        assert capsys.readouterr().out == shown
        assert all(f"\n    {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_script_and_gets_the_rest_of_the_words_and_ctrl_c(name, monkeypatch):
    given = []
    monkeypatch.setattr(
        f"shakespeare_lm.commands.{name}.main",
        lambda words: given.append((words, signal.getsignal(signal.SIGINT))) or 3,
    )
    before = signal.getsignal(signal.SIGINT)
    assert main([name, "--help", "-x"]) == 3
    assert given == [(["--help", "-x"], before)]
    assert signal.getsignal(signal.SIGINT) == before
    assert (SCRIPTS / f"{name}.py").is_file()


# Stands for torch, and catches everything while it is imported, as some libraries do.
_SLOW_IMPORT = """
import sys, time
print("importing", flush=True)
try:
    time.sleep(30)
except BaseException:
    pass
print("swallowed", flush=True)
"""


@pytest.mark.parametrize("name", ["fit", "complete"])
def test_ctrl_c_while_torch_is_imported_ends_quietly_with_130(tmp_path, name):
    (tmp_path / "torch.py").write_text(_SLOW_IMPORT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with subprocess.Popen(
        [sys.executable, str(SCRIPTS / f"{name}.py"), "--help"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest, errors) == (130, "", "")


@pytest.mark.parametrize(
    ("started", "shown"),
    [
        ("scripts/fit.py", "python scripts/complete.py"),
        ("score.py", "python complete.py"),
        ("/my scripts/fit.py", "python '/my scripts/complete.py'"),
        ("/env/lib/shakespeare_lm/__main__.py", "python -m shakespeare_lm complete"),
        ("/env/bin/shakespeare-lm", "shakespeare-lm complete"),
        ("", "shakespeare-lm complete"),
        ("my_program.py", "shakespeare-lm complete"),
    ],
)
def test_a_command_is_started_in_the_way_that_this_process_was(monkeypatch, started, shown):
    monkeypatch.setattr(sys, "argv", [started])
    assert command_line("complete") == shown


def test_a_package_in_an_archive_is_refused(tmp_path):
    archive = tmp_path / "a.zip"
    package = Path(shakespeare_lm.__file__).parent
    with zipfile.ZipFile(archive, "w") as file:
        for path in (*package.glob("*.py"), *package.glob("commands/*.py")):
            file.write(path, path.relative_to(package.parent))
    command = [sys.executable, "-m", "shakespeare_lm", "runs"]
    done = run_process(command, tmp_path, PYTHONPATH=str(archive))
    advice = "is in an archive: unpack it, or install it with pip"
    assert (done.returncode, done.stderr) == (1, f"error: {archive / package.name} {advice}\n")


@pytest.mark.parametrize(
    "error", [MemoryError(), ImportError("libtorch_cpu.so: failed to map segment from shared obj")]
)
def test_too_little_memory_for_torch_is_one_line(monkeypatch, capsys, error):
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(start, "import_module", fail)
    assert start.run_command("fit", []) == 1
    line = "error: not enough memory to load PyTorch (see ulimit -v)\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_is_told_when_loading_takes_long(monkeypatch, capsys, is_terminal):
    def slow_import(name):
        for timer in threading.enumerate():
            if isinstance(timer, threading.Timer):
                timer.join()
        return SimpleNamespace(main=lambda words: 7)

    monkeypatch.setattr(start, "_SECONDS_IN_SILENCE", 0.0)
    monkeypatch.setattr(start, "import_module", slow_import)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert start.run_command("fit", []) == 7
    told = "loading PyTorch and Lightning ...\n" if is_terminal else ""
    assert capsys.readouterr().err == told
