"""The command `page`: one file, what it costs, and nothing half-written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from shakespeare_lm.commands.page import main
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Main, save


def model_of(page: Path) -> dict[str, Any]:
    start = page.read_text("utf-8").partition('id="model">')[2]
    content: dict[str, Any] = json.loads(start.partition("</script>")[0])
    return content


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = ShakespeareLM("\nab", context_length=8, num_layers=1, num_heads=2, d_model=8)
    return save(tmp_path / "best.ckpt", module)


def test_the_page_of_a_run_has_its_losses_its_texts_and_what_packing_costs(
    tiny_main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_main("--max_steps=6", "--trainer.val_check_interval=3") == 0
    capsys.readouterr()
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "the page (8-bit weights) costs" in err
    assert "model.html: " in err
    page = (tmp_path / "model.html").read_text("utf-8")
    model = model_of(tmp_path / "model.html")
    assert [step for step, _ in model["samples"]] == [1, 3, 6]
    assert model["config"]["d_model"] == 16
    for text in ("train_loss", "val_loss", "7-gram", "Losses by the number of steps", "<dt>Seed"):
        assert text in page, text
    assert str(tmp_path) not in page


def test_a_lone_checkpoint_has_a_page_without_curves(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.html"
    assert main(["--ckpt", str(checkpoint), "--output", str(output), "--title", "<b>"]) == 0
    assert "warning: val_loss is not measured: the checkpoint does not name its corpus" in (
        capsys.readouterr().err
    )
    page = output.read_text("utf-8")
    assert 'aria-labelledby="learned-title" hidden' in page
    assert "<h1>&lt;b&gt;</h1>" in page
    assert model_of(output)["prompt"] == ""  # its characters are unknown to this model


def test_the_cost_is_measured_on_a_given_text(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ab\nba\n" * 100)
    output = tmp_path / "a.html"
    assert main(["--ckpt", str(checkpoint), "--output", str(output), "--corpus", str(text)]) == 0
    assert "val_loss 1." in capsys.readouterr().err
    assert "nanoGPT" not in output.read_text("utf-8")  # which was measured on another text


def test_it_goes_to_stdout_for_a_pipe(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", str(checkpoint), "--output", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")


def test_bad_input_is_one_line_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(checkpoint.read_bytes()[:1000])
    module = ShakespeareLM(
        "\nab", context_length=8, num_layers=1, num_heads=2, d_model=8, memory_order=2
    )
    remembers = save(tmp_path / "memory.ckpt", module)
    before = set(tmp_path.iterdir())
    for ckpt, output, message in (
        (tmp_path / "none.ckpt", "a.html", "none.ckpt"),
        (damaged, "a.html", "damaged"),
        (remembers, "a.html", "memory_order is 2: a page cannot hold that"),
        (checkpoint, "missing/a.html", "missing/a.html"),
        (checkpoint, "best.ckpt", "best.ckpt"),
        (checkpoint, "", "irectory"),
    ):
        assert main(["--ckpt", str(ckpt), "--output", str(tmp_path / output)]) != 0
        error = capsys.readouterr().err.splitlines()[-1]
        assert message in error, error
        assert "Traceback" not in error
    assert set(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert main(["--ckpt", str(checkpoint), "--output", str(tmp_path / "closed/a.html")]) == 1
    assert "closed/a.html" in capsys.readouterr().err
