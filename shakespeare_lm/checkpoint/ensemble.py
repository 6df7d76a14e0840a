"""The checkpoints that make up a model: one, or several as an ensemble."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.ensemble import Ensemble
from shakespeare_lm.model.network import Network


def find_members(given: Iterable[str | Path | None]) -> list[Path]:
    """Return the checkpoints of a model, each as `find_checkpoint` does. A text names several,
    separated by commas, unless a file has this very name.
    """
    found: list[Path] = []
    for path in given:
        several = isinstance(path, str) and not os.path.exists(path)
        found += map(find_checkpoint, map(str.strip, str(path).split(",")) if several else [path])
    return found


def read_members(paths: Sequence[Path]) -> list[Checkpoint]:
    """Read the checkpoints of a model.

    Raises:
        UserError: if there are none, one cannot be read, or one has another vocabulary.
    """
    if not paths:
        raise UserError("no checkpoint is given: expected at least one path")
    members = [read_checkpoint(path) for path in paths]
    for path, member in zip(paths, members, strict=True):
        if member.tokenizer.vocabulary != members[0].tokenizer.vocabulary:
            raise UserError(f"{path} has other characters than {paths[0]}: choose another member")
    return members


def joint_network(members: Sequence[Checkpoint]) -> Network:
    """Return the network of one checkpoint, or several as an ensemble, in float32."""
    networks = [member.network() for member in members]
    return Ensemble(networks) if len(networks) > 1 else networks[0]


def model_name(paths: Sequence[Path]) -> str:
    """Return what to call the model of these checkpoints."""
    return "the ensemble of " * (len(paths) > 1) + ", ".join(map(str, paths))
