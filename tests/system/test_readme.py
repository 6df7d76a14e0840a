"""The README's commands run as they stand, but for limits that make them short."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from shakespeare_lm.cli import fit
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (?:.*&& )?(python scripts/.*)$", README, flags=re.MULTILINE)
FITS = [command for command in COMMANDS if "fit.py" in command and "--help" not in command]
# More devices than a test can count on; tests/system/test_distributed.py has two processes.
ONE_MACHINE = [command for command in FITS if "--devices" not in command]


def short(command: str) -> list[str]:
    """Return a fit command's options, with limits behind them."""
    options = [
        str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(command)
    ]
    # The corpus of the command stays; everything else becomes tiny.
    tiny = [o for o in TINY if not (o.startswith("--data.corpus") and "--data.corpus" in command)]
    return [*options[2:], *tiny, "--max_steps=4", "--limit_val_batches=1"]


def test_the_readme_shows_the_commands_that_matter() -> None:
    assert "python scripts/fit.py" in COMMANDS
    assert len(ONE_MACHINE) >= 4
    assert any("complete.py" in command for command in COMMANDS)


@pytest.mark.parametrize("command", ONE_MACHINE)
def test_its_training_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plays").mkdir()
    for name in ("my_novel.txt", "plays/one.txt", "plays/two.txt"):
        (tmp_path / name).write_text("It was a dark and stormy night, and so on. " * 20)
    options = short(command)
    if "--ckpt_path last" in command:
        fit(options[2:])
    if "--print_config" in options:
        with pytest.raises(SystemExit) as caught:
            fit(options)
        assert caught.value.code == 0
    else:
        steps = fit([o if o != "--max_steps=4" else "--max_steps=5" for o in options])
        assert steps.trainer.global_step == 5


def test_its_completion_command_takes_the_newest_runs_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit([*TINY, "--max_steps=2"])
    (command,) = [command for command in COMMANDS if "complete.py" in command]
    words = shlex.split(command.replace("--max_new_tokens 300", "--max_new_tokens 8"))
    done = subprocess.run(
        [sys.executable, str(ROOT / words[1]), *words[2:]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("To be or not to be, that is the ")


def test_every_link_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_recipe_stands_in_the_table() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"| `{path.stem}` |" in README, path.stem
