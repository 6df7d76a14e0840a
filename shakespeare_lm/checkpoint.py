"""module -> checkpoint: which file a run left, and what is in it.

Enters: a path. Leaves: hyperparameters and weights, read such that nothing in the file runs.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from shakespeare_lm.errors import UserError
from shakespeare_lm.network import NETWORK_OPTIONS


def newest_checkpoint(name: str, root: str | Path = "lightning_logs") -> Path:
    """Return `name`.ckpt of the newest run under `root` that has one.

    Raises:
        UserError: if no run has.
    """
    found = [
        (int(match[1]), path)
        for path in Path(root).glob(f"version_*/checkpoints/{name}.ckpt")
        if (match := re.fullmatch(r"version_(\d+)", path.parent.parent.name))
    ]
    if not found:
        raise UserError(
            f"no {name}.ckpt in {root}/version_*/checkpoints: train a model first (python "
            "scripts/fit.py), or give the path of a checkpoint"
        )
    return max(found)[1]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint of this program, with tensors on the CPU.

    `weights_only=True` lets the file hold tensors and plain builtins, and nothing that runs.

    Raises:
        UserError: if the file is missing, damaged, or not of this program.
    """
    if not Path(path).is_file():
        raise UserError(
            f"there is no checkpoint {path}: accepted is a .ckpt file that training wrote"
        )
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is damaged or no checkpoint: accepted is a .ckpt file that training wrote"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors and plain values, perhaps code: it was not loaded, "
            "and only checkpoints that this program wrote are accepted"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or no checkpoint: {reason}") from None
    _check_is_ours(checkpoint, path)
    result: dict[str, Any] = checkpoint
    return result


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
