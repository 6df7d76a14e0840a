"""Safetensors: what was exported is read back bit for bit, and checked like any checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from shakespeare_lm.checkpoint.reading import FORMAT, read_checkpoint
from shakespeare_lm.checkpoint.safetensors_file import safetensors_bytes
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

VOCABULARY = '\n "abcé😀'
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "previous characters": {"previous_characters": 4},
    "tied head": {"tied_head": True},
    "learned, post-norm": {"positions": "learned", "norm": "post", "bias": True},
    "bigram": {"network": "bigram", "optimizer": "adamw"},
    "memory": {"memory_order": 3},
    "mixed_memory": {"memory_order": 3, "memory_share": 0.2},
    "tied bigram": {"network": "bigram", "optimizer": "adamw", "tied_head": True},
}


def exported(folder: Path, **options: Any) -> tuple[Path, Path]:
    """Return the paths of a checkpoint and of what was exported from it."""
    torch.manual_seed(0)
    module = ShakespeareLM(
        VOCABULARY,
        **{"context_length": 8, "num_layers": 1, "num_heads": 2, "d_model": 8, **options},
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    if options.get("memory_order"):
        ids = torch.arange(40) % 7
        module.network.ngrams.remember(ids, torch.tensor([40]))  # type: ignore[union-attr,operator]
    path = save(folder / "best.ckpt", module)
    checkpoint = read_checkpoint(path)
    target = folder / "model.safetensors"
    hyperparameters = checkpoint.content["hyper_parameters"]
    target.write_bytes(safetensors_bytes(checkpoint.distinct_weights, hyperparameters, FORMAT))
    return path, target


@pytest.mark.parametrize("name", OPTIONS)
def test_a_completer_reads_it_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    path, target = exported(tmp_path, **OPTIONS[name])
    before, after = (Completer.from_checkpoint(one) for one in (path, target))
    states = [one.network.state_dict() for one in (before, after)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert after.complete("a", 50, seed=1) == before.complete("a", 50, seed=1)


def test_the_weights_are_readable_by_anybody(tmp_path: Path) -> None:
    from safetensors import safe_open

    _, target = exported(tmp_path, tied_head=True)
    with safe_open(target, framework="pt") as file:
        assert "head.weight" not in file.keys()  # noqa: SIM118
        assert json.loads(file.metadata()["shakespeare_lm"])["vocabulary"] == VOCABULARY


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "is a file of another program"),
        ({"shakespeare_lm": "[" * 100_000, "shakespeare_lm_format": "1"}, "is damaged"),
        ({"shakespeare_lm": "{}", "shakespeare_lm_format": "1"}, "checkpoint of another program"),
        ({"shakespeare_lm": "[]", "shakespeare_lm_format": "1"}, "checkpoint of another program"),
        ({"shakespeare_lm": "{}", "shakespeare_lm_format": "99"}, "later version"),
        ({"shakespeare_lm": "{}", "shakespeare_lm_format": "x"}, "is damaged"),
    ],
)
def test_foreign_headers_are_refused(
    tmp_path: Path, header: dict[str, str] | None, message: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path, header)
    with pytest.raises(UserError, match=message):
        read_checkpoint(path)


def test_damage_and_absence_are_named(tmp_path: Path) -> None:
    _, target = exported(tmp_path)
    content = target.read_bytes()
    for damaged in (content[:-1], content[:100], b"", b"PK" + content, content[:8] + b"x" * 500):
        target.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            read_checkpoint(target)
    with pytest.raises(UserError, match="none"):
        read_checkpoint(tmp_path / "none.safetensors")


def test_weights_that_do_not_fit_the_sizes_are_refused(tmp_path: Path) -> None:
    path, target = exported(tmp_path)
    checkpoint = read_checkpoint(path)
    hyperparameters = {**checkpoint.content["hyper_parameters"], "d_model": 4000}
    target.write_bytes(safetensors_bytes(checkpoint.distinct_weights, hyperparameters, FORMAT))
    with pytest.raises(UserError, match="does not hold a working model"):
        read_checkpoint(target)
    weights = {**checkpoint.weights, "head.weight": checkpoint.weights["head.weight"] * torch.inf}
    good = checkpoint.content["hyper_parameters"]
    target.write_bytes(safetensors_bytes(weights, good, FORMAT))
    with pytest.raises(UserError, match="non-finite"):
        read_checkpoint(target)
    strange = checkpoint.weights["head.weight"].to(torch.float8_e4m3fn)
    target.write_bytes(
        safetensors_bytes({**checkpoint.weights, "head.weight": strange}, good, FORMAT)
    )
    with pytest.raises(UserError, match="non-finite"):
        read_checkpoint(target)
