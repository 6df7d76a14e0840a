"""The card: what people want to know, and no path of the machine."""

from pathlib import Path
from typing import Any

import pytest

from shakespeare_lm.checkpoint.card import card, corpus_name, num_weights
from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save


def checkpoint(tmp_path: Path, data: Any = None, **options: Any) -> Any:
    module = ShakespeareLM(
        "\nab", context_length=8, num_layers=1, num_heads=2, d_model=8, **options
    )
    return read_checkpoint(
        save(tmp_path / "a.ckpt", module, ShakespeareDataModule=data, global_step=5)
    )


def test_it_names_network_training_and_versions(tmp_path: Path) -> None:
    one = checkpoint(tmp_path, learning_rate=0.004, previous_characters=2, characters_ahead=4)
    facts = dict(card(one, "my text", 86_400.0 * 365, "1.2"))
    assert facts["Network"] == (
        "causal transformer: 1 layers, 2 heads, width 8, context 8, sinusoidal positions, 2 "
        "preceding characters embedded"
    )
    assert "learning rate 0.004" in facts["Training"]
    assert "predicts 4 characters ahead" in facts["Training"]
    assert facts["Corpus"] == "my text"
    assert facts["Date"] == "1971-01-01"
    assert facts["Characters"] == "3 different ones"
    assert "shakespeare_lm 1.2" in facts["Made with"]


def test_a_tied_head_counts_once(tmp_path: Path) -> None:
    untied, tied = (num_weights(checkpoint(tmp_path, tied_head=tied)) for tied in (False, True))
    assert untied - tied == 4 * 8


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"corpus": ["tinyshakespeare"]}, "tinyshakespeare"),
        ({"corpus": ["auto"]}, "tiny Shakespeare, or the bundled scene"),
        ({"corpus": ["/home/someone/texts/a.txt", "C:\\texts\\b.txt"]}, "a.txt, b.txt"),
        ({"corpus": [1]}, "unknown"),
        (None, "unknown"),
    ],
)
def test_files_are_named_without_their_folders(tmp_path: Path, data: Any, name: str) -> None:
    assert corpus_name(checkpoint(tmp_path, data)) == name


def test_a_strange_checkpoint_gives_short_facts(tmp_path: Path) -> None:
    module = ShakespeareLM("\nab", context_length=8, num_layers=1, num_heads=2, d_model=8)
    nested: Any = []
    for _ in range(60):  # printing it would take forever
        nested = [nested, nested]
    for version in ("x" * 10_000, nested, None, "\ud800"):
        one = read_checkpoint(
            save(tmp_path / "a.ckpt", module, **{"pytorch-lightning_version": version})
        )
        facts = card(one, "t\ud800", 0.0, "1")
        assert max(len(fact) for _, fact in facts) <= 200
        "".join(fact for _, fact in facts).encode()
        assert "Training" not in dict(facts)  # no step was taken


@pytest.mark.parametrize("ahead", [1, -4, pytest.param(10**5_000, id="huge"), "4", None])
def test_the_next_character_alone_and_strange_numbers_are_not_named(
    tmp_path: Path, ahead: Any
) -> None:
    one = checkpoint(tmp_path)
    one.content["hyper_parameters"]["characters_ahead"] = ahead
    assert "ahead" not in dict(card(one, "t", 0.0, "1"))["Training"]
