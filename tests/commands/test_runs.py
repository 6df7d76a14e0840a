"""The command `runs`: a table of runs, and the same as JSON."""

import json
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from shakespeare_lm.commands.runs import main
from tests.conftest import logged


def test_the_table_and_the_json_say_what_was_trained_how_far_and_how_well(run, capsys):
    config = Path("lightning_logs/cut/version_0/config.yaml")
    config.write_text(config.read_text().replace("max_steps: 3", "max_steps: 9"))
    loss = min(logged(run, "val_loss").values())
    assert main([]) == 0
    head, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["run", "corpus", "recipe", "steps", "val_loss", "date", "state"]
    assert rows[0][:5] == ["version_0", "sample", "-", "5", f"{loss:.4f}"]
    assert [[*row[:4], row[-1]] for row in rows] == [
        ["version_0", "sample", "-", "5", "finished"],
        ["cut/version_0", "sample", "-", "3", "stopped"],
        ["other/version_0", "sample", "little", "1", "finished"],
    ]
    with FileLock(run / ".lock"):
        assert main(["--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["processes"][0]["versions"]["torch"] == torch.__version__
    assert main(["--details"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n  versions       python ") == 3
    assert "\n  precision      32-true\n" in out
    assert (row["state"], row["steps"], row["val_loss"]) == ("running", 5, pytest.approx(loss))


def test_a_damaged_run_is_listed_and_a_folder_without_runs_is_an_error(tmp_path, capsys):
    checkpoints = tmp_path / "version_4/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").write_bytes(b"half")
    for config in ("data: 5", "[" * 100_000):
        (tmp_path / "version_4/config.yaml").write_text(config)
        assert main([str(tmp_path)]) == 0
        row = capsys.readouterr().out.splitlines()[1]
        assert row.split()[:5] == ["version_4", "-", "-", "-", "-"]
    assert main([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith(f"error: no runs in {tmp_path / 'none'}: expected")
