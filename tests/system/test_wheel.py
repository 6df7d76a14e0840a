"""The package installed from its wheel, in an environment and a folder far from the repository."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = (
    "--data.corpus sample --data.context_length 8 --data.batch_size 4 --model.num_layers 1 "
    "--model.num_heads 1 --model.d_model 16 --max_steps 3 --accelerator cpu"
)


def test_the_wheel_has_every_folder_of_the_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"][
        "packages"
    ]
    rooms = {path.parent.name for path in (ROOT / "shakespeare_lm").glob("*/__init__.py")}
    assert set(listed) == {"shakespeare_lm", *(f"shakespeare_lm.{room}" for room in rooms)}


def copy_of_the_source(folder: Path) -> Path:
    """Return a copy to build from: setuptools leaves folders where it builds."""
    source = folder / "source"
    for name in ("shakespeare_lm", "configs"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


def build(folder: Path) -> Path:
    """Build the wheel."""
    source = copy_of_the_source(folder)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    if "No matching distribution" in done.stderr:
        pytest.skip("building a wheel downloads setuptools, which cannot be reached")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(folder: Path, *what: str) -> Path:
    """Install into a new environment that shares nothing but the dependencies; return its bin."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder that is named here is searched, but its editable installations are not.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--ignore-installed", *what], check=True)
    return python.parent


@pytest.mark.slow
def test_an_installed_wheel_trains_a_recipe_and_all_that_it_prints_can_be_typed(
    tmp_path: Path,
) -> None:
    programs = install(tmp_path / "environment", str(build(tmp_path / "wheel")))
    (elsewhere := tmp_path / "elsewhere").mkdir()
    paths = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | paths

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=elsewhere, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    where = run("python -c 'import shakespeare_lm; print(shakespeare_lm.__file__)'")
    assert Path(where).is_relative_to(tmp_path / "environment")
    for program in ("shakespeare-lm", "python -m shakespeare_lm"):
        output = run(f"{program} fit --config little {TINY}")
        hints = [line.strip() for line in output.splitlines() if line.startswith("  ")]
        first = program.split()[0]
        assert [shlex.split(hint)[0] for hint in hints] == [first, "tensorboard", first]
        assert run(hints[-1]).startswith("ROMEO:")
        (elsewhere / "line.txt").write_text("To be")
        assert "perplexity" in run(f"{program} score line.txt")
        run(hints[0])
    assert "little" in run("shakespeare-lm runs")
    assert "usage: shakespeare-lm fit" in run("shakespeare-lm fit --help")
    assert "usage: shakespeare-lm complete" in run("shakespeare-lm complete --help")


RIGHT = """
from shakespeare_lm import Batch, Network, ShakespeareDataModule, ShakespeareLM

module = ShakespeareLM("ab", d_model=8, positions="rotary", optimizer="my.Lion")
data = ShakespeareDataModule("sample", val_fraction=0.2)
network: Network = module.network
"""
WRONG = {
    'ShakespeareLM("ab", d_modell=3)': 'argument "d_modell" for "ShakespeareLM"',
    'ShakespeareLM("ab", d_model="3")': 'has incompatible type "str"; expected "int"',
    'ShakespeareDataModule("sample", val=1)': 'argument "val" for "ShakespeareDataModule"',
    "module.network + 1": 'operand types for + ("Network" and "int")',
}


@pytest.mark.slow
def test_type_checkers_find_an_editable_installation_from_another_folder(tmp_path: Path) -> None:
    source = copy_of_the_source(tmp_path)
    programs = install(tmp_path / "environment", "--no-build-isolation", "-e", str(source))
    (elsewhere := tmp_path / "elsewhere").mkdir()
    python = str(programs / "python")
    command = [sys.executable, "-m", "mypy", "--python-executable", python, "user.py"]
    (elsewhere / "user.py").write_text(RIGHT + "\n".join(WRONG))
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == len(WRONG), done.stdout
    assert all(map(str.__contains__, errors, WRONG.values())), errors
    module = "import shakespeare_lm.commands.recipes as recipes; print(recipes.FOLDER)"
    found = subprocess.run([python, "-c", module], cwd=elsewhere, capture_output=True, text=True)
    assert found.stdout.strip() == str(source / "configs")
