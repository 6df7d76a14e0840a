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


def test_the_wheel_has_every_folder_of_the_package_and_the_recipes() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"][
        "packages"
    ]
    rooms = {path.parent.name for path in (ROOT / "shakespeare_lm").glob("*/__init__.py")}
    expected = {"shakespeare_lm", *(f"shakespeare_lm.{room}" for room in (*rooms, "configs"))}
    assert set(listed) == expected


def build(folder: Path) -> Path:
    """Build the wheel of a copy: setuptools leaves folders where it builds."""
    source = folder / "source"
    for name in ("shakespeare_lm", "configs"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    if "No matching distribution" in done.stderr:
        pytest.skip("building a wheel downloads setuptools, which cannot be reached")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install into a new environment that shares nothing but the dependencies; return its bin."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder that is named here is searched, but its editable installations are not.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


@pytest.mark.slow
def test_an_installed_wheel_trains_a_recipe_and_all_that_it_prints_can_be_typed(
    tmp_path: Path,
) -> None:
    programs = install(build(tmp_path / "wheel"), tmp_path / "environment")
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
