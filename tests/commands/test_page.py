"""The command `page`: one file, what it costs, and nothing half-written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from shakespeare_lm.commands.page import main
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

NO_RIGHTS = os.name != "posix" or os.geteuid() == 0


def model_of(page: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(page.partition('id="model">')[2].partition("</script>")[0])
    return content


def saved(path: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    sizes = {"context_length": 8, "num_layers": 1, "num_heads": 2, "d_model": 8}
    return save(path, ShakespeareLM("\nab", **sizes, **options))


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return saved(Path("best.ckpt"))


def test_the_page_of_a_run_has_its_losses_its_texts_and_what_packing_costs(run, tmp_path, capsys):
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "the page (8-bit weights) costs" in err
    assert "model.html: " in err
    page = Path("model.html").read_text("utf-8")
    model = model_of(page)
    assert [step for step, _ in model["samples"]] == [1, 2, 4, 5]
    assert model["config"]["d_model"] == 16
    for text in ("train_loss", "val_loss", "7-gram", "Losses by the number of steps", "<dt>Seed"):
        assert text in page, text
    assert str(tmp_path) not in page


def test_a_lone_checkpoint_has_a_page_without_curves(checkpoint, capsys):
    assert main(["--ckpt=best.ckpt", "--output=a.html", "--title", "<b>"]) == 0
    assert "warning: val_loss is not measured: the checkpoint does not name its corpus" in (
        capsys.readouterr().err
    )
    page = Path("a.html").read_text("utf-8")
    assert 'aria-labelledby="learned-title" hidden' in page
    assert "<h1>&lt;b&gt;</h1>" in page
    assert model_of(page)["prompt"] == ""  # its characters are unknown to this model
    Path("text.txt").write_text("ab\nba\n" * 100)
    assert main(["--ckpt=best.ckpt", "--output=-", "--corpus=text.txt"]) == 0
    page, errors = capsys.readouterr()
    assert "val_loss 1." in errors
    assert page.startswith("<!doctype html>")
    assert "nanoGPT" not in page  # which was measured on another text


@pytest.mark.parametrize(
    ("ckpt", "output", "message"),
    [
        ("none.ckpt", "a.html", "none.ckpt"),
        ("damaged.ckpt", "a.html", "damaged"),
        ("memory.ckpt", "a.html", "memory_order is 2: a page cannot hold that"),
        ("best.ckpt", "missing/a.html", "missing/a.html"),
        ("best.ckpt", "best.ckpt", "best.ckpt"),
        ("best.ckpt", ".", "irectory"),
        pytest.param(
            "best.ckpt", "closed/a.html", "closed/a.html",
            marks=pytest.mark.skipif(NO_RIGHTS, reason="root may write anywhere"),
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(checkpoint, capsys, ckpt, output, message):
    Path("damaged.ckpt").write_bytes(checkpoint.read_bytes()[:1000])
    saved(Path("memory.ckpt"), memory_order=2)
    Path("closed").mkdir(mode=0o500)
    before = set(Path().rglob("*"))
    assert main(["--ckpt", ckpt, "--output", output]) == 1
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
    assert set(Path().rglob("*")) == before
