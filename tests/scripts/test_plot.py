"""The picture of loss curves: which logs it reads, and which mistakes it names."""

from pathlib import Path

import numpy as np
import pytest

from shakespeare_lm.errors import UserError
from tests.conftest import Fit

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e '.[plot]'")

from scripts import plot

METRICS = """epoch,step,train_loss,val_loss
0,0,4.5,
0,1,3.5,
0,1,,3.25
0,2,2.5,
0,3,,2.75
"""


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "config.yaml").write_text("data: {batch_size: 8, context_length: 16}\n")
    return tmp_path


def test_a_csv_log_gives_both_losses_and_counts_steps_from_1(run_folder: Path) -> None:
    train, validation = plot.read_losses(run_folder)
    np.testing.assert_array_equal(train, [[1, 2, 3], [4.5, 3.5, 2.5]])
    np.testing.assert_array_equal(validation, [[2, 4], [3.25, 2.75]])
    assert plot.characters_per_step(run_folder) == 128


def test_both_kinds_of_log_give_the_same_curves(tiny_fit: Fit, tmp_path: Path) -> None:
    options = ("--max_steps=4", "--val_check_interval=2")
    tiny_fit(*options)
    tiny_fit(*options, "--logger=CSVLogger", "--logger.save_dir=.")
    folders = [tmp_path / f"lightning_logs/version_{number}" for number in (0, 1)]
    assert (folders[1] / "metrics.csv").exists()
    curves = [plot.read_losses(folder) for folder in folders]
    for of_tensorboard, of_csv in zip(*curves, strict=True):
        np.testing.assert_array_equal(of_tensorboard, of_csv)
    np.testing.assert_array_equal(curves[0][0][0], [1, 2, 3, 4])
    np.testing.assert_array_equal(curves[0][1][0], [2, 4])


def test_the_same_runs_give_the_same_picture(run_folder: Path) -> None:
    pictures = [run_folder / name for name in ("1.svg", "2.svg", "3.png")]
    for picture in pictures:
        assert plot.main([str(picture), f"mine={run_folder}"]) == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert pictures[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("output", "words", "removed", "message"),
    [
        ("a.svg", "{run}", "", "{run} has no name: expected NAME=RUN_FOLDER"),
        ("a.svg", "a={run}/none", "", "{run}/none has neither TensorBoard events nor metrics.csv"),
        ("a.svg", "a={run}", "metrics.csv", "{run} has neither TensorBoard events nor metrics.csv"),
        ("a.svg", "a={run}", "config.yaml", "{run}/config.yaml: No such file or directory"),
        ("a.doc", "a={run}", "", "the format of the picture is 'doc': choose from: "),
        ("none/a.svg", "a={run}", "", "{run}/none/a.svg: No such file or directory"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(
    run_folder: Path,
    capsys: pytest.CaptureFixture[str],
    output: str,
    words: str,
    removed: str,
    message: str,
) -> None:
    if removed:
        (run_folder / removed).unlink()
    assert plot.main([str(run_folder / output), words.format(run=run_folder)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message.format(run=run_folder)}")
    assert len(captured.err.splitlines()) == 1
    assert not (run_folder / output).exists()


@pytest.mark.parametrize(("column", "name"), [(2, "train_loss"), (3, "val_loss")])
def test_a_run_without_one_of_the_losses_is_named(run_folder: Path, column: int, name: str) -> None:
    rows = [line.split(",") for line in METRICS.splitlines()]
    kept = [",".join(row[:column] + row[column + 1 :]) for row in rows]
    (run_folder / "metrics.csv").write_text("\n".join(kept))
    with pytest.raises(UserError, match=f"has no {name}"):
        plot.read_losses(run_folder)
