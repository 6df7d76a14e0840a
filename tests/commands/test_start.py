"""Starting a command by its name, and Ctrl-C before it has started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shakespeare_lm.commands.start import main
from shakespeare_lm.invocation import COMMANDS

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_every_command_has_a_script_and_a_line_in_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n    {name} " in shown
        assert (SCRIPTS / f"{name}.py").is_file()


@pytest.mark.parametrize("words", [[], ["bake"], ["--nonsense"]])
def test_anything_else_is_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_the_rest_of_the_words_go_to_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(
        f"shakespeare_lm.commands.{name}.main", lambda words: given.append(words) or 3
    )
    assert main([name, "--help", "-x"]) == 3
    assert given == [["--help", "-x"]]


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


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_while_torch_is_imported_ends_quietly_with_130(tmp_path: Path, name: str) -> None:
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


def test_ctrl_c_works_as_always_once_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = []
    monkeypatch.setattr(
        "shakespeare_lm.commands.score.main",
        lambda _: handlers.append(signal.getsignal(signal.SIGINT)) or 0,
    )
    before = signal.getsignal(signal.SIGINT)
    main(["score"])
    assert handlers == [before] == [signal.getsignal(signal.SIGINT)]
