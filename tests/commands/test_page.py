"""The command `page`: one file, what it costs, and nothing half-written."""

import json
import re
import webbrowser
from pathlib import Path
from typing import Any

import pytest
import torch

from shakespeare_lm.commands.page import _chart, main
from shakespeare_lm.data.corpus import load_corpus
from shakespeare_lm.page.run_log import RunLog
from shakespeare_lm.training.module import ShakespeareLM
from tests.checkpoint.conftest import random_checkpoint
from tests.conftest import save


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
    assert len(model["passage"]) > 100
    assert model["passage"] in load_corpus("sample")[0]


def test_a_title_that_is_not_utf_8_is_wrong_usage(capsys):
    assert main(["--title", "a\udcff"]) == 2
    assert capsys.readouterr().err.startswith(r"error: argument --title: invalid utf8 value: 'a\ud")


def test_a_lone_checkpoint_has_a_page_without_curves(checkpoint, capsys):
    assert main(["--ckpt=best.ckpt", "--output=a.html", "--title", "<b>"]) == 0
    warning = "warning: val_loss is not measured (corpus: unknown): the checkpoint does not name"
    assert warning in capsys.readouterr().err
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
    assert model_of(page)["prompt"] in ("ab\n", "ba\n")  # a line of the text


def test_open_shows_the_page_in_a_browser_if_there_is_one(checkpoint, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or len(opened) == 1)
    for hint in ("opened in your browser", "open it in a browser"):
        assert main(["--ckpt=best.ckpt", "--output=a.html", "--open"]) == 0
        assert hint in capsys.readouterr().err
    assert opened == [Path("a.html").resolve().as_uri()] * 2
    assert main(["--ckpt=best.ckpt", "--output=-", "--open"]) == 1
    assert "open needs a file: output is -" in capsys.readouterr().err
    assert len(opened) == 2


def test_one_validation_is_seen_and_curves_lose_their_first_steps_only_if_there_are_others():
    curves = {"train_loss": [(1, 4.0), (2, 2.0), (3, 1.9)], "val_loss": [(3, 3.25)]}
    chart = _chart(RunLog(curves, []), None)
    assert "val_loss: 3.2500" in chart
    assert "<path" in chart  # a dot
    assert chart.count("train_loss") == 2
    (points,) = re.findall('class="line line-1" points="([^"]+)"', chart.partition("<ul")[0])
    assert len(points.split()) == 2


def test_the_page_of_a_memory_says_that_it_holds_the_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random_checkpoint(tmp_path / "memory.ckpt", "\nab", memory_order=3)
    assert main(["--ckpt=memory.ckpt"]) == 0
    note = "this page holds the 400 characters that its n-gram memory has counted"
    assert f"note: {note}" in capsys.readouterr().err
    assert note in Path("model.html").read_text("utf-8")


def test_two_models_are_on_one_page_and_three_are_too_many(checkpoint, capsys):
    random_checkpoint(Path("other.ckpt"), "\nдеж", memory_order=2)
    assert main(["--ckpt", "best.ckpt", "other.ckpt"]) == 0
    errors = capsys.readouterr().err
    assert "the other model: checked by Node.js" in errors
    assert "note: this page holds the 400 characters" in errors
    assert model_of(Path("model.html").read_text("utf-8"))["beside"]["vocabulary"] == "\nдеж"
    assert main(["--ckpt", "best.ckpt", "other.ckpt", "best.ckpt"]) == 1
    assert "ckpt names 3 checkpoints: expected one or two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ckpt", "output", "message"),
    [
        ("none.ckpt", "a.html", "none.ckpt"),
        ("a,b", "a.html", "one model of several, distil them: --model.teachers a,b"),
        ("damaged.ckpt", "a.html", "damaged"),
        ("best.ckpt", "missing/a.html", "missing/a.html"),
        ("best.ckpt", "best.ckpt", "best.ckpt"),
        ("best.ckpt", "text.txt", "output is text.txt, which is an input"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(checkpoint, capsys, ckpt, output, message):
    Path("damaged.ckpt").write_bytes(checkpoint.read_bytes()[:1000])
    Path("text.txt").write_bytes(b"not UTF-8: \xff")
    before = set(Path().rglob("*"))
    assert main(["--ckpt", ckpt, "--output", output, "--corpus=text.txt"]) == 1
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
    assert set(Path().rglob("*")) == before
