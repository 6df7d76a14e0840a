"""The README is right: its commands run (with limits that make them short), its counts are real."""

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from shakespeare_lm.commands import complete, score
from shakespeare_lm.commands.fit import fit
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (?:.*&& )?(python scripts/.*)$", README, flags=re.MULTILINE)
FITS = [command for command in COMMANDS if "fit.py" in command and "--help" not in command]
# Those with several devices are left to tests/system/test_distributed.py.
ONE_MACHINE = [c for c in FITS if "--devices" not in c and "--more_steps" not in c]


def short(command: str) -> list[str]:
    """Return the options of a fit command, followed by limits."""
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
        options.append("--model.decay_steps=5")
        fit(options[2:])
    if "lightning_logs/version_0" in command:
        fit([*TINY, "--max_steps=1"])
    if "--print_config" in options:
        with pytest.raises(SystemExit) as caught:
            fit(options)
        assert caught.value.code == 0
    else:
        steps = fit([o if o != "--max_steps=4" else "--max_steps=5" for o in options])
        assert steps.trainer.global_step == 5


def test_its_command_to_train_more_continues_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = [shlex.split(c) for c in FITS if "--more_steps" in c]
    assert command[2:] == ["--more_steps", "625"]
    fit([*TINY, "--max_steps=2"])
    assert fit(["--more_steps", "4", "--enable_progress_bar=false"]).trainer.global_step == 6


def test_its_commands_for_checkpoints_take_the_newest_runs_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fit([*TINY, "--max_steps=2"])
    (tmp_path / "my_sonnet.txt").write_text("To be, or not to be,\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "To be"}\n')
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    mains = {"scripts/complete.py": complete.main, "scripts/score.py": score.main}
    commands = [shlex.split(c) for c in COMMANDS if shlex.split(c)[1] in mains]
    assert len(commands) >= 5
    for command in commands:
        capsys.readouterr()
        short = [*command[2:], *(["--max_new_tokens=8"] if "complete" in command[1] else [])]
        assert mains[command[1]](short) == 0, command
        assert "version_0" in capsys.readouterr().err
    assert json.loads((tmp_path / "completions.jsonl").read_text())["prompt"] == "To be"


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_every_link_leads_to_a_file(page: str) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", (ROOT / page).read_text())
    assert links
    for target in links:
        assert ((ROOT / page).parent / target).exists(), target


def test_the_model_has_as_many_lines_as_it_says() -> None:
    (promised,) = re.findall(r"Read the model, (\d+) lines in all", README)
    files = (ROOT / "shakespeare_lm" / "model").glob("*.py")
    assert sum(len(file.read_text().splitlines()) for file in files) == int(promised)


def test_the_example_is_as_short_as_it_says() -> None:
    (promised,) = re.findall(r"without Lightning in (\d+) lines", README)
    example = (ROOT / "examples" / "plain_loop.py").read_text()
    assert len(example.splitlines()) == int(promised) <= 80


def test_every_recipe_is_in_the_table() -> None:
    recipes = (ROOT / "docs" / "RECIPES.md").read_text()
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"| `{path.stem}` |" in recipes, path.stem
        assert f"`{path.stem}`" in README, path.stem


def test_its_table_of_recipes_has_the_losses_of_the_full_one() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| (\d\.\d+ ± \d\.\d+) ", README, flags=re.MULTILINE)
    assert len(rows) == 6
    recipes = (ROOT / "docs" / "RECIPES.md").read_text()
    for name, loss in rows:
        assert re.search(rf"^\| `{name}` \|.*\| {loss} ", recipes, flags=re.MULTILINE), name
