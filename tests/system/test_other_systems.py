"""What differs on Windows and macOS, as far as it can be imitated here."""

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint

from shakespeare_lm.training.history import ValidationHistory
from shakespeare_lm.training.summary import print_loss
from tests.conftest import Fit

CODE_PAGE = "cp1252"  # what Windows calls ANSI; in other countries there are others


def test_yaml_files_are_utf_8_where_the_system_has_another_encoding(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_open = open

    def open_on_windows(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        default = {} if "b" in mode or len(rest) > 1 else {"encoding": CODE_PAGE}
        return system_open(file, mode, *rest, **{**default, **options})

    monkeypatch.setattr(builtins, "open", open_on_windows)
    Path("own.yaml").write_text("data: {known_characters: Жé}\n", "utf-8")
    cli = tiny_fit("--config=own.yaml", "--max_steps=1")
    assert {"Ж", "é"} <= set(cli.model.tokenizer.vocabulary)
    (written,) = Path.cwd().rglob("config.yaml")
    assert yaml.safe_load(written.read_text("utf-8"))["data"]["known_characters"] == "Жé"
    assert tiny_fit("--ckpt_path=last", "--max_steps=2").trainer.global_step == 2


class OnMps(torch.Tensor):
    """A tensor on a GPU of Apple, which has no float64."""

    device = torch.device("mps")  # type: ignore[assignment]

    def double(self, *_: Any) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self, *_: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_a_loss_on_mps_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    best = ModelCheckpoint()
    best.best_model_score = torch.tensor(1.5).as_subclass(OnMps)
    print_loss(best, ValidationHistory(), None)
    assert "best val_loss 1.5000 nats per character" in capsys.readouterr().out


def test_rotary_positions_of_the_hugging_face_form_are_computed_on_mps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("transformers", reason="needs pip install -e '.[huggingface]'")
    from shakespeare_lm.export.modeling_shakespeare_lm import sines_and_cosines

    positions = torch.arange(5)[None]
    expected = sines_and_cosines(positions, 4, torch.float32)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_: tensor.float())  # to the GPU, too
    found = sines_and_cosines(positions.as_subclass(OnMps), 4, torch.float32)
    assert all(map(torch.equal, found, expected))
