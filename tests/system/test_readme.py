"""The documentation is right: its commands run (with limits that make them short), its links lead
somewhere, its counts are real.
"""

import io
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from shakespeare_lm.commands import complete, score
from shakespeare_lm.commands.fit import fit
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
}
GUIDES = "\n".join(PAGES[name] for name in ("README.md", "docs/TRAINING.md", "docs/COMPLETING.md"))
COMMANDS = sorted(set(re.findall(r"^    (python scripts/.*)$", GUIDES, flags=re.MULTILINE)))
FITS = [command for command in COMMANDS if "fit.py" in command and "--help" not in command]


def short(command: str) -> list[str]:
    """Return the options of a fit command, followed by limits."""
    options = [
        str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(command)
    ]
    # The corpus of the command stays; everything else becomes tiny.
    tiny = [o for o in TINY if not (o.startswith("--data.corpus") and "--data.corpus" in command)]
    return [*options[2:], *tiny, "--max_steps=5", "--limit_val_batches=1"]


@pytest.mark.parametrize("command", FITS)
def test_training_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plays").mkdir()
    for name in ("my_novel.txt", "plays/one.txt", "plays/two.txt"):
        (tmp_path / name).write_text("It was a dark and stormy night, and so on. " * 20)
    options = short(command)
    if "--more_steps" in command:
        fit([*TINY, "--max_steps=2"])
        options = ["--more_steps=3", "--enable_progress_bar=false"]
    if "--ckpt_path last" in command:
        options.append("--model.decay_steps=5")
        fit([*(o for o in options[2:] if o != "--max_steps=5"), "--max_steps=4"])
    if "lightning_logs/version_0" in command:
        fit([*TINY, "--max_steps=1"])
    if "--print_config" in options:
        with pytest.raises(SystemExit) as caught:
            fit(options)
        assert caught.value.code == 0
    else:
        assert fit(options).trainer.global_step == 5


def test_commands_for_checkpoints_take_the_newest_runs_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fit([*TINY, "--max_steps=2"])
    (tmp_path / "my_sonnet.txt").write_text("To be, or not to be,\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "To be"}\n')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    mains = {"scripts/complete.py": complete.main, "scripts/score.py": score.main}
    commands = [shlex.split(c) for c in COMMANDS if shlex.split(c)[1] in mains]
    assert len(commands) >= 5
    for command in commands:
        capsys.readouterr()
        limits = ["--max_new_tokens=8"] if "complete" in command[1] else []
        assert mains[command[1]]([*command[2:], *limits]) == 0, command
        assert "version_0" in capsys.readouterr().err
    assert json.loads((tmp_path / "completions.jsonl").read_text("utf-8"))["prompt"] == "To be"


@pytest.mark.parametrize("page", PAGES)
def test_links_files_and_installations_of_a_page_are_right(page: str) -> None:
    text = PAGES[page]
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target
    for target, title in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
        linked = ((ROOT / page).parent / target).read_text("utf-8") if target else text
        titles = re.findall(r"^#+ (.*)$", linked, flags=re.MULTILINE)
        assert title in [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
    for script in re.findall(r"(?:python|torchrun.*) ((?:scripts|docs|examples)/\w+\.py)", text):
        assert (ROOT / script).exists(), script
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    (torch,) = re.findall(r"^torch==(.*)$", constraints, flags=re.M)
    for line in re.findall(r"pip install [^`\n]*", text):
        safe = rf"-c constraints\.txt|torch=={torch} --index-url|--require-hashes|--no-deps"
        assert re.search(safe, line), line


def test_counts_and_recipes_are_those_of_the_files() -> None:
    readme, recipes = PAGES["README.md"], PAGES["docs/RECIPES.md"]
    assert len(readme.splitlines()) <= 150
    lines = [
        len(f.read_text("utf-8").splitlines()) for f in (ROOT / "shakespeare_lm/model").glob("*.py")
    ]
    assert f"Read the model, {sum(lines)} lines in all" in PAGES["docs/ARCHITECTURE.md"]
    example = (ROOT / "examples/plain_loop.py").read_text("utf-8")
    claim = f"without Lightning in {len(example.splitlines())} lines"
    assert claim in PAGES["docs/ARCHITECTURE.md"]
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"| `{path.stem}` |" in recipes, path.stem
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| (\d\.\d+ ± \d\.\d+) ", readme, flags=re.MULTILINE)
    assert len(rows) == 6
    for name, loss in rows:
        assert re.search(rf"^\| `{name}` \|.*\| {loss} ", recipes, flags=re.MULTILINE), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
