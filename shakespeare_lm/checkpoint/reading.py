"""module -> checkpoint: which file a run left, and what is in it.

Enters: a path. Leaves: hyperparameters and weights, read such that nothing in the file runs.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shakespeare_lm.checkpoint.archive import ACCEPTED, check_archive
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.network.build import NETWORK_OPTIONS, build_network

_WEIGHTS_PREFIX = "transformer."
_COUNTS = ("num_layers", "previous_characters")  # each adds tensors
_PLAIN = str | int | float | None  # bool is an int


def newest_checkpoint(name: str, root: str | Path = "lightning_logs") -> Path:
    """Return `name`.ckpt of the newest run under `root` that has one.

    Raises:
        UserError: if no run has.
    """
    found = _checkpoints(root, name)
    if not found:
        raise UserError(
            f"no {name}.ckpt in {root}/version_*/checkpoints: train a model first (python "
            "scripts/fit.py), or give the path of a checkpoint"
        )
    return found[0]


def newest_readable(root: str | Path = "lightning_logs") -> Path:
    """Return the newest run's last.ckpt, or, with a warning, what is newest of the undamaged.

    Raises:
        UserError: if there is none.
    """
    damaged: list[str] = []
    for path in _checkpoints(root, "last", "best"):
        try:
            read_checkpoint(path)
        except UserError as error:
            damaged.append(str(error))
            continue
        for error_line in damaged:
            warnings.warn(f"{error_line}; going on from {path} instead", stacklevel=2)
        return path
    if damaged:
        raise UserError(damaged[0])
    return newest_checkpoint("last", root)


def _checkpoints(root: str | Path, *names: str) -> list[Path]:
    """Return the checkpoints of these names: the newest run's first, in the names' order."""
    found = [
        (-int(match[1]), order, path)
        for order, name in enumerate(names)
        for path in Path(root).glob(f"version_*/checkpoints/{name}.ckpt")
        if (match := re.fullmatch(r"version_(\d+)", path.parent.parent.name))
    ]
    return [path for _, _, path in sorted(found)]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint of this program, with tensors on the CPU.

    Nothing in the file runs, and nothing in it makes this take more memory or time than a file of
    its size may: it can come from anybody.

    Raises:
        UserError: if the file is missing, damaged, or not of this program.
    """
    checkpoint = read_archive(path)
    _check_is_ours(checkpoint, path)
    _check_weights(checkpoint, path)
    result: dict[str, Any] = checkpoint
    return result


def read_archive(path: str | Path) -> Any:
    """Return tensors and plain values that torch.save wrote, with tensors on the CPU.

    Raises:
        UserError: if the file is missing, damaged, or holds anything else.
    """
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as many kinds as there are ways to be wrong
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or no checkpoint: {reason}") from None


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights as the network names them, from what `read_checkpoint` returned."""
    return {
        name.removeprefix(_WEIGHTS_PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(_WEIGHTS_PREFIX)
    }


def _check_is_ours(checkpoint: object, path: str | Path) -> None:
    hyperparameters = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    complete = (
        isinstance(hyperparameters, dict)
        and all(name in hyperparameters for name in NETWORK_OPTIONS)
        and isinstance(hyperparameters["vocabulary"], str)
        and isinstance(checkpoint.get("state_dict"), dict)  # type: ignore[attr-defined]
    )
    if not complete:
        raise UserError(
            f"{path} is a checkpoint of another program: it has no vocabulary and sizes of a "
            "shakespeare_lm model"
        )
    if type(checkpoint.get("global_step", 0)) is not int:  # type: ignore[attr-defined]
        raise UserError(f"{path} has a global_step that is no whole number: {ACCEPTED}")
    for name, value in hyperparameters.items():  # type: ignore[union-attr]
        if not isinstance(name, str) or name.startswith("_") or not isinstance(value, _PLAIN):
            # Lightning's _instantiator and _class_path name code to run.
            raise UserError(
                f"{path} has a hyperparameter {str(name)[:40]!r} that this program does not write: "
                f"{ACCEPTED}"
            )


def _check_weights(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Compare sizes with hyperparameters before memory is taken for a network of such sizes."""
    state, hyperparameters = checkpoint["state_dict"], checkpoint["hyper_parameters"]
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{path} holds no working model: {str(name)[:40]!r} is no tensor")
    # A tied head counts twice, but is in the file once.
    if sum(tensor.nbytes for tensor in state.values()) > 2 * Path(path).stat().st_size:
        raise UserError(f"{path} holds no working model: its weights are larger than the file")
    for name in _COUNTS if hyperparameters["network"] != "bigram" else ():
        count = hyperparameters[name]
        if isinstance(count, int) and count > len(state):
            raise UserError(
                f"{path} holds no working model: {name} is {count}, for {len(state)} tensors"
            )
    try:
        with torch.device("meta"):  # sizes without memory
            expected = build_network(hyperparameters).state_dict()
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path} holds no working model: {one_line(error)[:200]}") from None
    _check_shapes(expected, network_weights(checkpoint), path)


def _check_shapes(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: str | Path
) -> None:
    for name in sorted(expected.keys() ^ weights.keys()):
        which = "lacks" if name in expected else "has unknown"
        raise UserError(f"{path} holds no working model: it {which} weights {name[:80]}")
    for name, tensor in weights.items():
        sizes, wanted = tuple(tensor.shape), tuple(expected[name].shape)
        if sizes != wanted:
            raise UserError(
                f"{path} holds no working model: {name} is {sizes}, its sizes ask for {wanted}"
            )
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise UserError(f"{path} holds no working model: {name} has values that are no numbers")
