"""The picture of loss curves: which logs it reads, and which mistakes it names."""

from pathlib import Path

import numpy as np
import pytest

from shakespeare_lm.data.corpus import load_corpus
from shakespeare_lm.data.splits import SplitConfig, fingerprint
from shakespeare_lm.errors import UserError
from shakespeare_lm.training import interim_validation
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e '.[plot]'")

from scripts import plot

METRICS = """epoch,step,train_loss,val_loss,val_sample_loss
0,1,4.5,,
0,2,3.5,,
0,2,,3.25,
0,2,,,3.5
0,3,2.5,,
0,4,,2.75,
"""
CONFIG = "data: {batch_size: 8, context_length: 16, corpus: CORPUS}"


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def test_a_csv_log_gives_the_losses_by_steps_taken(run_folder):
    curves = plot.read_losses(run_folder)
    np.testing.assert_array_equal(curves["train_loss"], [[1, 2, 3], [4.5, 3.5, 2.5]])
    np.testing.assert_array_equal(curves["val_loss"], [[2, 4], [3.25, 2.75]])
    np.testing.assert_array_equal(curves["val_sample_loss"], [[2], [3.5]])


def test_both_kinds_of_log_give_the_same_curves(tiny_fit, tmp_path, monkeypatch):
    monkeypatch.setattr(interim_validation, "_TRAINED_PER_CHARACTER", 0)
    options = ("--max_steps=4", "--val_check_interval=2")
    tiny_fit(*options)
    tiny_fit(*options, "--logger=CSVLogger", "--logger.save_dir=.")
    folders = [tmp_path / f"lightning_logs/version_{number}" for number in (0, 1)]
    assert (folders[1] / "metrics.csv").exists()
    of_tensorboard, of_csv = map(plot.read_losses, folders)
    steps = {"train_loss": [1, 2, 3, 4], "val_loss": [2, 4], "val_sample_loss": [1, 2, 3, 4]}
    assert set(of_tensorboard) == set(of_csv) == set(steps)
    for name, curve in of_csv.items():
        np.testing.assert_array_equal(curve[0], steps[name])
        # TensorBoard keeps float32.
        np.testing.assert_array_equal(of_tensorboard[name], curve.astype(np.float32))


@pytest.mark.parametrize(
    ("corpus", "text", "drawn"),
    [
        ("tinyshakespeare", None, True),
        ("[tinyshakespeare]", None, True),
        ("war_and_peace.txt", None, False),
        ("auto", plot.TEXT_SHA256, True),
        ("[auto]", "0" * 64, False),  # the bundled scene
        ("auto", None, False),  # without a checkpoint that knows
    ],
)
def test_nanogpts_losses_are_drawn_for_tiny_shakespeare_alone(
    run_folder, monkeypatch, corpus, text, drawn
):
    (run_folder / "config.yaml").write_text(CONFIG.replace("CORPUS", corpus))
    if text is not None:
        state = {"ShakespeareDataModule": {"text_sha256": text}}
        save(run_folder / "best.ckpt", ShakespeareLM("ab", num_layers=1), **state)
    pictures: list[Path] = []
    monkeypatch.setattr(plot, "draw_anchors", pictures.append)
    assert plot.main([str(run_folder / "a.svg"), f"mine={run_folder}"]) == 0
    assert len(pictures) == drawn


@pytest.mark.network
def test_the_fingerprint_is_that_of_tiny_shakespeare(tmp_path):
    identity = fingerprint(load_corpus("tinyshakespeare"), SplitConfig(), 1, 0)
    assert identity["text_sha256"] == plot.TEXT_SHA256


def test_the_same_runs_give_the_same_picture_whose_path_is_printed(run_folder, capsys):
    pictures = [run_folder / name for name in ("1.svg", "2.svg", "3.png")]
    for picture in pictures:
        assert plot.main([str(picture), f"mine={run_folder}"]) == 0
        assert capsys.readouterr().out == f"{picture}\n"
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
def test_mistakes_are_one_line_and_exit_code_1(run_folder, capsys, output, words, removed, message):
    if removed:
        (run_folder / removed).unlink()
    assert plot.main([str(run_folder / output), words.format(run=run_folder)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message.format(run=run_folder)}")
    assert len(captured.err.splitlines()) == 1
    assert not (run_folder / output).exists()


@pytest.mark.parametrize(("column", "name"), [(2, "train_loss"), (3, "val_loss")])
def test_a_run_without_one_of_the_losses_is_named(run_folder, column, name):
    rows = [line.split(",") for line in METRICS.splitlines()]
    kept = [",".join(row[:column] + row[column + 1 :]) for row in rows]
    (run_folder / "metrics.csv").write_text("\n".join(kept))
    with pytest.raises(UserError, match=f"has no {name}"):
        plot.read_losses(run_folder)
