"""The model card: what people want to know, and no path of the machine."""

from pathlib import Path
from typing import Any

import pytest

from shakespeare_lm.checkpoint.model_card import card, corpus_name, num_weights
from tests.checkpoint.conftest import random_checkpoint


def facts(path: Path, content: dict[str, Any] | None = None, **options: Any) -> dict[str, str]:
    """Return the card of a checkpoint with other content than its weights and options."""
    checkpoint = random_checkpoint(path, **options)
    checkpoint.content.update({"global_step": 5, **(content or {})})
    return dict(card(checkpoint, "t\ud800", 86_400.0 * 365, "1.2"))


def test_it_names_network_training_and_versions(path: Path) -> None:
    found = facts(path, learning_rate=0.004, previous_characters=2, characters_ahead=4)
    assert found["Network"] == (
        "causal transformer: 1 layers, 2 heads, width 8, context 8, sinusoidal positions, 2 "
        "preceding characters embedded"
    )
    assert "learning rate 0.004" in found["Training"]
    assert "predicts 4 characters ahead" in found["Training"]
    assert found["Corpus"] == "t?"  # no file can hold a lone surrogate
    assert found["Date"] == "1971-01-01"
    assert found["Characters"] == "3 different ones"
    assert "shakespeare_lm 1.2" in found["Made with"]
    assert "Training" not in facts(path, {"global_step": 0})
    for optimizer, has_muon in (("muon", True), ("adamw", False)):
        assert ("Muon" in facts(path, optimizer=optimizer)["Training"]) == has_muon


def test_a_tied_head_counts_once(path: Path) -> None:
    untied, tied = (num_weights(random_checkpoint(path, tied_head=tied)) for tied in (False, True))
    assert untied - tied == 4 * 8


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"corpus": ["tinyshakespeare"]}, "tinyshakespeare"),
        ({"corpus": ["auto"]}, "tiny Shakespeare, or the bundled scene"),
        ({"corpus": ["/home/someone/texts/a.txt", "C:\\texts\\b.txt"]}, "a.txt, b.txt"),
        (None, "unknown"),
    ],
)
def test_files_are_named_without_their_folders(path: Path, data: Any, name: str) -> None:
    checkpoint = random_checkpoint(path)
    checkpoint.content["ShakespeareDataModule"] = data
    assert corpus_name(checkpoint) == name


@pytest.mark.parametrize("version", ["x" * 10_000, [["x"]], None, "\ud800"], ids=lambda _: "")
def test_a_strange_checkpoint_gives_short_facts(path: Path, version: Any) -> None:
    found = facts(path, {"pytorch-lightning_version": version})
    assert max(map(len, found.values())) <= 200
    "".join(found.values()).encode()


@pytest.mark.parametrize("ahead", [1, -4, "4", None])
def test_the_next_character_alone_and_strange_numbers_are_not_named(path: Path, ahead: Any) -> None:
    options = {**random_checkpoint(path).content["hyper_parameters"], "characters_ahead": ahead}
    assert "ahead" not in facts(path, {"hyper_parameters": options})["Training"]
