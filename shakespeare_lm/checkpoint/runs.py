"""Which checkpoint: of the newest run, of a run's folder, or the one at a path."""

import warnings
from pathlib import Path
from typing import NamedTuple

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.invocation import command_line
from shakespeare_lm.methods.networks import UntrustedNetworkError

LOG_FOLDER = "lightning_logs"
CONFIG_FILE = "config.yaml"


class Resumable(NamedTuple):
    """A checkpoint to resume from: its file, and what is in it."""

    path: Path
    checkpoint: Checkpoint

    @property
    def step(self) -> int:
        """The number of steps taken."""
        return int(self.checkpoint.content.get("global_step", 0))

    @property
    def config_file(self) -> Path | None:
        """The absolute path of its run's `config.yaml`, if it lies in the folder of a run."""
        folder = self.path.resolve().parent
        run = folder.parent if folder.name == "checkpoints" else folder
        config = run / CONFIG_FILE
        # A file of another name beside a config.yaml need not belong to it.
        is_ours = run != folder or self.path.stem in ("last", "best")
        return config if is_ours and config.is_file() else None


class NotResumableError(UserError):
    """A checkpoint that can be read, but has no state of the training."""


def find_runs(root: str | Path, *names: str) -> list[Path]:
    """Return the folders of the runs with a checkpoint of one of these names, the newest first."""
    times: dict[Path, tuple[float, int]] = {}
    for name in names:
        for path in Path(root).rglob(f"version_*/checkpoints/{name}.ckpt"):
            run = path.parent.parent
            number = run.name.removeprefix("version_")
            if number.isdecimal():
                written = (path.stat().st_mtime, int(number))
                times[run] = max(written, times.get(run, written))
    return sorted(times, key=lambda run: times[run], reverse=True)


def find_checkpoint(given: str | Path | None, root: str | Path = LOG_FOLDER) -> Path:
    """Return the checkpoint to complete with: the one given, the best of the run whose folder was
    given, or the best of the newest run.

    Raises:
        UserError: if there is none.
    """
    if given == "":  # as a path, it would be the current folder
        raise UserError("there is no checkpoint '': give the path of a checkpoint")
    if given is not None and not Path(given).is_dir():
        return Path(given)
    folder = Path(root if given is None else given)
    runs = [folder] if _in_run(folder, "best").exists() else find_runs(folder, "best")
    if not runs:
        raise _no_checkpoint("best", folder)
    return _in_run(runs[0], "best")


def resolve_checkpoint(given: str, root: str | Path = LOG_FOLDER) -> Resumable:
    """Read the checkpoint to resume from: a path, the folder of a run, or "last".

    "last" is the newest run under `root`. Of a run's `last.ckpt` and `best.ckpt`, the one with more
    steps is taken: after a full disk that need not be `last.ckpt`. Damaged files are passed over,
    with a warning, and so are runs that have no other.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    if given != "last" and not Path(given).is_dir():
        return _read(given)
    damaged: list[str] = []
    for run in find_runs(root, "last", "best") if given == "last" else [Path(given)]:
        if found := _latest(run, damaged):
            for line in damaged:
                warnings.warn(f"{line}; resuming from {found.path} instead", stacklevel=2)
            return found
    where = root if given == "last" else given
    raise UserError(damaged[0]) if damaged else _no_checkpoint("last", where)


def _latest(run: Path, damaged: list[str]) -> Resumable | None:
    """Return the readable checkpoint with the most steps; add the others' errors to `damaged`."""
    found: Resumable | None = None
    for path in (_in_run(run, "last"), _in_run(run, "best")):
        # Normally `last.ckpt` is written after `best.ckpt`, and only one file needs to be read.
        if not path.exists() or (found and path.stat().st_mtime < found.path.stat().st_mtime):
            continue
        try:
            other = _read(path)
            found = other if found is None or other.step > found.step else found
        except NotResumableError:
            continue  # as --small_best asks for
        except UntrustedNetworkError:
            raise
        except UserError as error:
            damaged.append(str(error))
    return found


def _read(path: str | Path) -> Resumable:
    checkpoint = read_checkpoint(path)
    if "optimizer_states" not in checkpoint.content:
        raise NotResumableError(
            f"{path} has weights but no training state: resume from last.ckpt, or start a new run "
            "with --init_from"
        )
    return Resumable(Path(path), checkpoint)


def _in_run(run: Path, name: str) -> Path:
    """Return the path of a checkpoint in the folder of a run, or in its folder of checkpoints."""
    path = run / f"{name}.ckpt"
    return path if path.exists() else run / "checkpoints" / path.name


def _no_checkpoint(name: str, root: str | Path) -> UserError:
    return UserError(
        f"no {name}.ckpt in {root}: train a model first ({command_line('fit')}), or give the path "
        "of a checkpoint"
    )
