"""Bytes that once went wrong, or reach the most code, are accepted or refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import kept_inputs
from tests.fuzz.targets import TARGETS, seeds

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_accepted_or_refused_in_one_line(name: str) -> None:
    inputs = [*seeds()[name], *kept_inputs(name)]
    assert len(inputs) > 3
    for data in inputs:
        TARGETS[name](data)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_minute_of_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="needs pip install -e '.[fuzz]'")
    command = [sys.executable, "-m", "tests.fuzz", name, "60"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
