"""The command `export`, and what it shares with `page`: exported forms are run by the programs that
they are for, and compute what PyTorch computes; what they cost is measured, and a difference is
refused; the printed code works; mistakes leave nothing.
"""

import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.commands import export, page
from shakespeare_lm.commands.export import _title
from shakespeare_lm.commands.exported import (
    check_exported,
    huggingface_network,
    measure_losses,
    page_network,
)
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.page import html
from shakespeare_lm.page.html import _source as page_source
from tests.commands.conftest import run_process
from tests.export.models import VOCABULARY, network_of, random_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="needs pip install -e '.[huggingface]'"
)
needs_onnx = pytest.mark.skipif(
    find_spec("onnxruntime") is None, reason="needs pip install -e '.[onnx]'"
)
TEXT = "abcde:\nRO 'a'.\n" * 60
PAGE = pytest.param("page", marks=needs_node)
HUGGING_FACE = pytest.param("huggingface", marks=needs_transformers)
ONNX = pytest.param("onnx", marks=needs_onnx)


def export_to(form: str, folder: Path, output: str = "out", *options: str) -> int:
    arguments = ["--ckpt", str(folder / "best.ckpt"), "--output", str(folder / output), *options]
    return page.main(arguments) if form == "page" else export.main([*arguments, "--to", form])


@needs_node
def test_an_exported_page_is_run_from_its_file(tmp_path):
    checkpoint = random_checkpoint(tmp_path, previous_characters=2, positions="rotary")
    assert export_to("page", tmp_path) == 0
    network = page_network(tmp_path / "out")
    assert network is not None
    ids = torch.randint(len(VOCABULARY), (3, 20))
    with torch.inference_mode():
        expected = network_of(checkpoint)(ids)
    torch.testing.assert_close(network(ids), expected, atol=0.2, rtol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", HUGGING_FACE, ONNX])
def test_the_printed_code_samples_the_same_text_each_time(tmp_path, capsys, form):
    random_checkpoint(tmp_path, previous_characters=2, positions="rotary")
    (tmp_path / "text.txt").write_text(TEXT)
    output = f"out.{form}"
    assert export_to(form, tmp_path, output, "--corpus", str(tmp_path / "text.txt")) == 0
    use, said = capsys.readouterr()
    assert " bytes; use it with" in said
    assert max(len(line) for line in use.splitlines() if str(tmp_path) not in line) <= 88
    if form == "huggingface":
        card = (tmp_path / output / "README.md").read_text("utf-8")
        assert str(tmp_path) not in card
        assert use.strip().replace(str(tmp_path / output), output) in card
        start = "# A character-level model\n"
        for part in (start, "the validation part of text.txt", "| this model | ", "| 7-gram | "):
            assert part in card
    changes = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    other = re.sub(r"(seed=|seed\(|rng\()1", r"\g<1>2", use)
    thrice = f"for code in {[use, use, other]}:\n    exec(code)\n    print('--')"
    done = run_process([sys.executable, "-c", thrice], **changes)
    assert done.returncode == 0, done.stderr
    first, second, third, _ = done.stdout.split("\n--\n")
    assert first == second != third
    # With the prompt, but for the first; of a folder as much as stock GPT-2 can, its context of 24.
    assert len(first) == {"safetensors": 200, "huggingface": 24, "onnx": 201}[form]
    assert set(first) <= set(VOCABULARY)
    assert export_to(form, tmp_path, output) == 1
    assert "which exists: choose a new path" in capsys.readouterr().err


def test_a_model_is_called_by_its_run_and_its_corpus():
    for path, start in (
        ("lightning_logs/version_3/checkpoints/best.ckpt", "A"),
        ("lightning_logs/ape/version_3/checkpoints/last.ckpt", "ape: a"),
        ("models/version_3/best.ckpt", "A"),
        ("/best.ckpt", "A"),
    ):
        assert _title(Path(path), "Emma") == f"{start} character-level model of Emma"


def test_without_the_program_it_is_said_that_nothing_was_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert page_network(Path("a.html")) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert huggingface_network(Path("a")) is None
    assert check_exported(random_checkpoint(tmp_path), None, "the page", "Node.js") is None
    assert capsys.readouterr().err == "the page: not checked: Node.js is not installed\n"


def sharpened(checkpoint: Checkpoint, factor: float) -> nn.Module:
    network = network_of(checkpoint)
    with torch.no_grad():
        network.head.weight.mul_(factor)  # type: ignore[operator,union-attr]
    return network


def test_the_loss_of_the_model_is_of_the_whole_part_and_the_cost_that_of_the_form(tmp_path, capsys):
    checkpoint = random_checkpoint(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    losses = measure_losses(checkpoint, str(tmp_path / "text.txt"))
    assert losses is not None
    assert losses.others.keys() == {"7-gram"}
    cost = check_exported(checkpoint, sharpened(checkpoint, 0.5), "a half", "torch", losses)
    assert cost is not None
    assert abs(cost) > 0.01
    said = f"val_loss {losses.model:.4f}; a half costs {cost:+.5f} (run by torch on 2,048 "
    assert said in " ".join(capsys.readouterr().err.split())
    same = network_of(checkpoint)
    assert check_exported(checkpoint, same, "it", "torch", losses, same) == 0.0


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_a_form_that_computes_something_else_is_refused(tmp_path, factor):
    checkpoint = random_checkpoint(tmp_path)
    wrong, exact = sharpened(checkpoint, factor), network_of(checkpoint)
    with pytest.raises(UserError, match=r"^the form, run by torch, does not compute what"):
        check_exported(checkpoint, wrong, "the form", "torch", None, exact)


def test_without_a_text_there_is_a_warning_and_random_characters_are_compared(tmp_path, capsys):
    checkpoint, other = random_checkpoint(tmp_path), tmp_path / "other.txt"
    other.write_text("Ω" * 2000, "utf-8")
    for corpus, reason in (
        (None, "(corpus: unknown): the checkpoint does not name its corpus"),
        (str(tmp_path / "none.txt"), "none.txt"),
        (
            str(other),
            f"(corpus: {other}): the text has characters that the model does not know, such as 'Ω'",
        ),
    ):
        assert measure_losses(checkpoint, corpus) is None
        line = capsys.readouterr().err
        assert line.startswith("warning: val_loss is not measured (corpus: ")
        assert reason in line
    network = network_of(checkpoint)
    assert check_exported(checkpoint, network, "it", "torch", None, network) is None
    assert "it: checked by torch on random characters" in capsys.readouterr().err


@pytest.mark.parametrize(
    "form", [PAGE, pytest.param("huggingface", marks=[needs_transformers, pytest.mark.slow])]
)
def test_a_change_of_the_model_without_an_option_is_refused(tmp_path, monkeypatch, capsys, form):
    random_checkpoint(tmp_path)
    logits = CausalTransformer.logits
    monkeypatch.setattr(CausalTransformer, "logits", lambda *given: logits(*given).clamp(-1, 1))
    assert export_to(form, tmp_path) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: the {'page' if form == 'page' else 'Hugging Face folder'}")
    assert "does not compute what the model computes: its logits are off by up to" in error
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


@needs_node
def test_a_page_that_does_not_run_is_not_written(tmp_path, monkeypatch, capsys):
    random_checkpoint(tmp_path)
    changed = ("const count = x.length", "const count = missing.length")
    monkeypatch.setattr(html, "_source", lambda name: page_source(name).replace(*changed))
    assert export_to("page", tmp_path) == 1
    assert "the page does not run: Ref" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--to safetensors --output a.bin", "expected a name that ends with .safetensors"),
        ("--to safetensors --output none/a.safetensors", "none/a.safetensors: No such file or d"),
        ("--to safetensors --output best.ckpt", "which exists"),
        ("--to huggingface --output a --dtype int8", "huggingface has float32 only"),
        ("--to onnx --output a --ckpt none.ckpt", "none.ckpt"),
        ("--to onnx --output taken", "output is taken.json, which exists"),
        ("--to onnx --output a --ckpt a,b", "distil them: --model.teachers a,b"),
        ("--to huggingface --output a --ckpt memory/best.ckpt", "memory_order is 2: "),
        ("--to onnx --output a --ckpt memory/best.ckpt", "export --to safetensors"),
        ("--to pdf --output a", "argument --to: invalid choice: 'pdf'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory").mkdir()
    (tmp_path / "taken.json").touch()
    random_checkpoint(tmp_path)
    random_checkpoint(tmp_path / "memory", memory_order=2)
    before = set(tmp_path.rglob("*"))
    assert export.main(["--ckpt", "best.ckpt", *arguments.split()]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert set(tmp_path.rglob("*")) == before
