"""The README's commands run as they stand, but for limits that make them short."""

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from shakespeare_lm.commands import complete as completion_cli
from shakespeare_lm.commands import score as scoring_cli
from shakespeare_lm.commands.fit import fit
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


def test_its_commands_for_checkpoints_take_the_newest_runs_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fit([*TINY, "--max_steps=2"])
    (tmp_path / "my_sonnet.txt").write_text("To be, or not to be,\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "To be"}\n')
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    mains = {"scripts/complete.py": completion_cli.main, "scripts/score.py": scoring_cli.main}
    commands = [shlex.split(c) for c in COMMANDS if shlex.split(c)[1] in mains]
    assert len(commands) >= 5
    for command in commands:
        capsys.readouterr()
        short = [*command[2:], *(["--max_new_tokens=8"] if "complete" in command[1] else [])]
        assert mains[command[1]](short) == 0, command
        assert "version_0" in capsys.readouterr().err
    assert json.loads((tmp_path / "completions.jsonl").read_text())["prompt"] == "To be"


def test_every_link_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_recipe_stands_in_the_table() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"| `{path.stem}` |" in README, path.stem
