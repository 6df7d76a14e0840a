"""Closed forms: what they were not written for is refused by name; the list follows the model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from shakespeare_lm.checkpoint import exportable
from shakespeare_lm.checkpoint.exportable import KNOWN, check_known
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.networks import NETWORK_OPTIONS, NETWORKS, NetworkOptions
from shakespeare_lm.model import transformer
from shakespeare_lm.model.config import Activation, Norm, PositionKind
from tests.checkpoint.conftest import random_checkpoint


def test_forms_know_every_value_that_the_model_has() -> None:
    """A new activation, position, norm or network fails here until the page and the Hugging Face
    file have it, and the parity tests show that they compute it.
    """
    model = {
        "network": {name for name, kind in NETWORKS.items() if "shakespeare_lm" in kind.__module__},
        "positions": set(get_args(PositionKind)),
        "norm": set(get_args(Norm)),
        "activation": set(get_args(Activation)),
    }
    assert {name: set(values) for name, values in KNOWN.items() if values is not None} == model
    assert set(NETWORK_OPTIONS) - KNOWN.keys() == {"memory_order", "memory_share"}


@pytest.mark.parametrize("options", [{}, {"network": "bigram", "optimizer": "adamw"}])
def test_a_model_that_is_known_passes(path: Path, options: dict[str, str]) -> None:
    check_known(random_checkpoint(path, **options), "a page")


def test_an_unknown_value_is_refused_by_name(path: Path) -> None:
    checkpoint = random_checkpoint(path, memory_order=2)
    with pytest.raises(UserError, match=r"^memory_order is 2: a page cannot hold that, only 0; "):
        check_known(checkpoint, "a page")
    config = random_checkpoint(path).config
    object.__setattr__(config, "activation", "swiglu")
    with pytest.raises(UserError, match=r"^activation is swiglu: ONNX cannot hold that, only gelu"):
        check_known(checkpoint._replace(config=config), "ONNX")


def test_a_new_option_is_refused_unless_it_has_its_old_value(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Capped(NetworkOptions):
        softcap: float | None = None

    monkeypatch.setattr(exportable, "NETWORK_OPTIONS", (*NETWORK_OPTIONS, "softcap"))
    monkeypatch.setitem(exportable.ADDED_OPTIONS, "softcap", None)
    checkpoint = random_checkpoint(path)
    config = Capped(**{name: getattr(checkpoint.config, name) for name in NETWORK_OPTIONS})
    check_known(checkpoint._replace(config=config), "a page")
    with pytest.raises(UserError, match=r"^softcap is 30\.0: a page cannot hold that"):
        check_known(checkpoint._replace(config=replace(config, softcap=30.0)), "a page")


def test_an_unknown_layer_is_refused_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ScaledNorm(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    checkpoint = random_checkpoint(path)
    monkeypatch.setattr(transformer.nn, "LayerNorm", ScaledNorm)
    with pytest.raises(UserError, match=r"^the layer ScaledNorm: a page does not know it"):
        check_known(checkpoint, "a page")
