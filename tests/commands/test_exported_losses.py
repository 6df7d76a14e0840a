"""What an export costs: both losses on the same text, or a line that says why not."""

from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands.exported_losses import measure_exported, print_cost
from tests.export.models import VOCABULARY, network_of, random_checkpoint


def test_both_losses_are_of_the_whole_validation_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = random_checkpoint(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("abcde:\nRO 'a'.\n" * 60)
    network = network_of(checkpoint)
    with torch.no_grad():
        network.head.weight.mul_(0.5)  # type: ignore[operator,union-attr]
    losses = measure_exported(checkpoint, str(text), network)
    assert losses is not None
    assert losses.model != losses.exported
    assert losses.others.keys() == {"7-gram"}
    print_cost(losses, "halved")
    line = capsys.readouterr().err
    assert f"val_loss {losses.model:.4f}; halved {losses.exported:.4f} (" in line
    same = measure_exported(checkpoint, str(text))
    assert same is not None
    assert same.exported == same.model == losses.model


def test_without_a_text_there_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = random_checkpoint(tmp_path)
    assert measure_exported(checkpoint, None) is None
    assert "val_loss is not measured: the checkpoint does not name" in capsys.readouterr().err
    assert measure_exported(checkpoint, str(tmp_path / "none.txt")) is None
    other = tmp_path / "other.txt"
    other.write_text("Ω" * 2000)
    assert measure_exported(checkpoint, str(other)) is None
    assert set("Ω") - set(VOCABULARY)
