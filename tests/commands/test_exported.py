"""Exported forms are run by the programs that they are for, and compute what PyTorch computes; what
they cost is measured, and a difference is refused.
"""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from shakespeare_lm.commands import export, page
from shakespeare_lm.commands.exported import (
    check_exported,
    huggingface_network,
    measure_losses,
    page_network,
)
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.page.html import _source as page_source
from tests.export.models import VOCABULARY, network_of, random_checkpoint

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


@needs_node
def test_a_page_is_run_from_its_file(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, previous_characters=2, positions="rotary")
    file = tmp_path / "a.html"
    assert page.main(["--ckpt", str(tmp_path / "best.ckpt"), "--output", str(file)]) == 0
    network = page_network(file)
    assert network is not None
    ids = torch.randint(len(VOCABULARY), (3, 20))
    with torch.inference_mode():
        expected = network_of(checkpoint)(ids)
    # Weights in 8 bits.
    torch.testing.assert_close(network(ids), expected, atol=0.2, rtol=0.1)


def test_a_hugging_face_folder_is_run_from_its_files(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra of this form")
    checkpoint = random_checkpoint(tmp_path, previous_characters=2)
    arguments = ["--to", "huggingface", "--output", str(tmp_path / "a")]
    assert export.main(["--ckpt", str(tmp_path / "best.ckpt"), *arguments]) == 0
    network = huggingface_network(tmp_path / "a")
    assert network is not None
    ids = torch.randint(len(VOCABULARY), (3, 20))
    with torch.inference_mode():
        torch.testing.assert_close(network(ids), network_of(checkpoint)(ids), atol=1e-5, rtol=1e-5)


def changed_page(changes: tuple[str, str]) -> Callable[[str], str]:
    def source(name: str) -> str:
        return page_source(name).replace(*changes)

    return source


@needs_node
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Math.sqrt(headDim)", "Math.sqrt(headDim + 1)"), "does not compute what the model"),
        (("const count = x.length", "const count = missing.length"), "the page does not run: Ref"),
    ],
)
def test_a_page_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    change: tuple[str, str], message: str,
) -> None:  # fmt: skip
    random_checkpoint(tmp_path)
    monkeypatch.setattr("shakespeare_lm.page.html._source", changed_page(change))
    file = tmp_path / "a.html"
    assert page.main(["--ckpt", str(tmp_path / "best.ckpt"), "--output", str(file)]) == 1
    assert message in capsys.readouterr().err
    assert not file.exists()


def test_a_program_that_fails_is_named_with_its_error(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra of this form")
    network = huggingface_network(tmp_path)
    assert network is not None
    with pytest.raises(UserError, match=r"^the Hugging Face folder does not run: "):
        network(torch.zeros(1, 2, dtype=torch.long))


def test_without_the_program_there_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert page_network(Path("a.html")) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert huggingface_network(Path("a")) is None


TEXT = "abcde:\nRO 'a'.\n" * 60


def sharpened(checkpoint: object, factor: float) -> nn.Module:
    network = network_of(checkpoint)  # type: ignore[arg-type]
    with torch.no_grad():
        network.head.weight.mul_(factor)  # type: ignore[operator,union-attr]
    return network


def test_the_loss_of_the_model_is_of_the_whole_part_and_the_cost_that_of_the_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = random_checkpoint(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    losses = measure_losses(checkpoint, str(tmp_path / "text.txt"))
    assert losses is not None
    assert losses.others.keys() == {"7-gram"}
    cost = check_exported(checkpoint, sharpened(checkpoint, 0.5), "a half", "torch", losses)
    line = capsys.readouterr().err
    assert f"val_loss {losses.model:.4f}; a half costs {cost:+.5f} (run by torch on 2,048 c" in line
    assert cost is not None
    assert abs(cost) > 0.01
    same = check_exported(
        checkpoint, network_of(checkpoint), "it", "torch", losses, network_of(checkpoint)
    )
    assert same == 0.0


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_a_form_that_computes_something_else_is_refused(tmp_path: Path, factor: float) -> None:
    checkpoint = random_checkpoint(tmp_path)
    wrong, exact = sharpened(checkpoint, factor), network_of(checkpoint)
    with pytest.raises(UserError, match=r"^the form, run by torch, does not compute what"):
        check_exported(checkpoint, wrong, "the form", "torch", None, exact)


def test_without_the_program_it_is_said_that_nothing_was_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_exported(random_checkpoint(tmp_path), None, "the page", "Node.js") is None
    assert capsys.readouterr().err == "the page: not checked: Node.js is not installed\n"


def test_without_a_text_there_is_a_warning_and_random_characters_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = random_checkpoint(tmp_path)
    assert measure_losses(checkpoint, None) is None
    assert "val_loss is not measured: the checkpoint does not name" in capsys.readouterr().err
    assert measure_losses(checkpoint, str(tmp_path / "none.txt")) is None
    other = tmp_path / "other.txt"
    other.write_text("Ω" * 2000)
    assert measure_losses(checkpoint, str(other)) is None
    assert set("Ω") - set(VOCABULARY)
    network = network_of(checkpoint)
    assert check_exported(checkpoint, network, "it", "torch", None, network) is None
    assert "it: checked by torch on random characters" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["the page", "the Hugging Face folder"])
def test_a_change_of_the_model_without_an_option_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    if not (shutil.which("node") if form == "the page" else find_spec("transformers")):
        pytest.skip("needs the program of this form")
    random_checkpoint(tmp_path)
    logits = CausalTransformer.logits
    monkeypatch.setattr(CausalTransformer, "logits", lambda *given: logits(*given).clamp(-1, 1))
    arguments = ["--ckpt", str(tmp_path / "best.ckpt"), "--output", str(tmp_path / "a")]
    if form == "the page":
        assert page.main(arguments) == 1
    else:
        assert export.main([*arguments, "--to", "huggingface"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {form}")
    assert "does not compute what the model computes: its logits are off by up to" in error
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]
