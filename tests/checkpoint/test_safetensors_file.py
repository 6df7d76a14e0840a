"""Safetensors: what was exported is read back bit for bit, and checked like any checkpoint."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from shakespeare_lm.checkpoint.reading import FORMAT, Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.safetensors_file import safetensors_bytes
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from tests.checkpoint.conftest import random_checkpoint

VOCABULARY = '\n "abcé😀'
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "tied head": {"tied_head": True},
    "learned, post-norm": {"positions": "learned", "norm": "post", "bias": True},
    "bigram": {"network": "bigram", "optimizer": "adamw"},
    "memory": {"memory_order": 3},
    "mixed memory": {"memory_order": 3, "memory_share": 0.2},
    "tied bigram": {"network": "bigram", "optimizer": "adamw", "tied_head": True},
}


def export(checkpoint: Checkpoint, target: Path, **changes: Any) -> None:
    """Write a checkpoint with some of its weights or options changed."""
    weights = dict(checkpoint.distinct_weights)
    hyperparameters = dict(checkpoint.content["hyper_parameters"])
    for name, value in changes.items():
        (hyperparameters if name in hyperparameters else weights)[name] = value
    target.write_bytes(safetensors_bytes(weights, hyperparameters, FORMAT))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", OPTIONS)
def test_a_completer_reads_it_back_bit_for_bit(path: Path, target: Path, name: str) -> None:
    export(random_checkpoint(path, VOCABULARY, **OPTIONS[name]), target)
    before, after = (Completer.from_checkpoint(one) for one in (path, target))
    states = [one.network.state_dict() for one in (before, after)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert after.complete("a", 50, seed=1) == before.complete("a", 50, seed=1)


def test_the_weights_are_readable_by_anybody(path: Path, target: Path) -> None:
    export(random_checkpoint(path, VOCABULARY, tied_head=True), target)
    with safe_open(target, framework="pt") as file:
        assert "head.weight" not in file.keys()  # noqa: SIM118
        assert json.loads(file.metadata()["shakespeare_lm"])["vocabulary"] == VOCABULARY


@pytest.mark.parametrize(
    ("hyperparameters", "number", "message"),
    [
        (None, None, "is a file of another program"),
        ("[" * 100_000, "1", "is damaged"),
        ("{}", "1", "checkpoint of another program"),
        ("[]", "1", "checkpoint of another program"),
        ("{}", "99", "later version"),
        ("{}", "x", "is damaged"),
    ],
)
def test_foreign_headers_are_refused(
    target: Path, hyperparameters: str | None, number: str, message: str
) -> None:
    header = {"shakespeare_lm": hyperparameters, "shakespeare_lm_format": number}
    save_file({"a": torch.zeros(2)}, target, header if hyperparameters else None)
    with pytest.raises(UserError, match=message):
        read_checkpoint(target)


def test_damage_and_absence_are_named(path: Path, target: Path) -> None:
    with pytest.raises(UserError, match=r"model\.safetensors"):
        read_checkpoint(target)
    export(random_checkpoint(path), target)
    content = target.read_bytes()
    for damaged in (content[:-1], content[:100], b"", b"PK" + content, content[:8] + b"x" * 500):
        target.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            read_checkpoint(target)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the named pipes of POSIX")
def test_a_pipe_is_not_read(target: Path) -> None:
    os.mkfifo(target)
    opened = os.open(target, os.O_RDWR)  # or else a reader would wait for a writer
    with pytest.raises(UserError, match="there is no checkpoint"):
        read_checkpoint(target)
    os.close(opened)


def test_weights_that_do_not_fit_the_sizes_are_refused(path: Path, target: Path) -> None:
    checkpoint = random_checkpoint(path)
    head = checkpoint.weights["head.weight"]
    strange = head.to(torch.float8_e4m3fn)
    for changes, message in (
        ({"d_model": 4000}, "does not hold a working model"),
        ({"head.weight": head * torch.inf}, "non-finite"),
        ({"head.weight": strange}, "non-finite"),
    ):
        export(checkpoint, target, **changes)
        with pytest.raises(UserError, match=message):
            read_checkpoint(target)
