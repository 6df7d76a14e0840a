"""Which checkpoint: the newest run's best, the last that can be resumed, or the one at a path."""

import re
import warnings
from pathlib import Path
from typing import NamedTuple

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.errors import UserError

LOG_FOLDER = "lightning_logs"


class Resumable(NamedTuple):
    """A checkpoint to resume from: its file, and what is in it."""

    path: Path
    checkpoint: Checkpoint

    @property
    def step(self) -> int:
        """The number of steps taken."""
        return int(self.checkpoint.content.get("global_step", 0))


def newest_checkpoint(name: str, root: str | Path = LOG_FOLDER) -> Path:
    """Return `name`.ckpt of the newest run under `root` that has one.

    Raises:
        UserError: if no run has.
    """
    found = _checkpoints(root, name)
    if not found:
        raise _no_checkpoint(name, root)
    return found[0]


def resolve_checkpoint(ckpt_path: str, root: str | Path = LOG_FOLDER) -> Resumable:
    """Read the checkpoint to resume from: a path, or "last".

    "last" is `last.ckpt` of the run with the highest version number under `root`, or else its
    `best.ckpt`, or else the same two of the runs before. Damaged files are passed over, with a
    warning.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    if ckpt_path != "last":
        return Resumable(Path(ckpt_path), read_checkpoint(ckpt_path))
    damaged: list[str] = []
    for path in _checkpoints(root, "last", "best"):
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            damaged.append(str(error))
            continue
        for error_line in damaged:
            warnings.warn(f"{error_line}; resuming from {path} instead", stacklevel=2)
        return Resumable(path, checkpoint)
    if damaged:
        raise UserError(damaged[0])
    raise _no_checkpoint("last", root)


def _no_checkpoint(name: str, root: str | Path) -> UserError:
    return UserError(
        f"no {name}.ckpt in {root}/version_*/checkpoints: train a model first (python "
        "scripts/fit.py), or give the path of a checkpoint"
    )


def _checkpoints(root: str | Path, *names: str) -> list[Path]:
    """Return the checkpoints of these names: the newest run's first, in the order of the names."""
    found = [
        (-int(match[1]), order, path)
        for order, name in enumerate(names)
        for path in Path(root).glob(f"version_*/checkpoints/{name}.ckpt")
        if (match := re.fullmatch(r"version_(\d+)", path.parent.parent.name))
    ]
    return [path for _, _, path in sorted(found)]
