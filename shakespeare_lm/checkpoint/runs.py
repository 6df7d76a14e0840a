"""The runs in a folder: their files, options and locks, and which checkpoint of theirs is meant."""

import json
import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.invocation import command_line
from shakespeare_lm.methods.import_path import UntrustedCodeError

if TYPE_CHECKING:
    from filelock import FileLock

LOG_FOLDER = "lightning_logs"
_RECIPE = "# recipe: "  # begins config.yaml


class NotResumableError(UserError):
    """A checkpoint that can be read, but has no state of the training."""


@dataclass(frozen=True)
class Run:
    """A run that has a folder, `lightning_logs/version_N` or `lightning_logs/NAME/version_N`."""

    folder: Path

    @classmethod
    def of(cls, checkpoint: Path) -> "Run | None":
        """Return the run that wrote a checkpoint; None if it lies elsewhere, or under a name that
        runs do not give.
        """
        folder = checkpoint.resolve().parent
        if folder.name == "checkpoints":
            return cls(folder.parent)
        return cls(folder) if checkpoint.stem in ("last", "best") else None

    @property
    def version(self) -> int | None:
        """The number N of the folder; None if it has another name."""
        match = re.fullmatch(r"version_(\d+)", self.folder.name)
        return int(match[1]) if match else None

    @property
    def config_file(self) -> Path:
        """The file that has all options of the run, and in its first line the recipe."""
        return self.folder / "config.yaml"

    @property
    def recipe(self) -> str:
        """The recipe or YAML file that the run was started with; empty if that is not known."""
        with suppress(OSError), self.config_file.open(encoding="utf-8", errors="replace") as file:
            first = file.readline()
            return first.removeprefix(_RECIPE).strip() if first.startswith(_RECIPE) else ""
        return ""

    def name_recipe(self, recipe: str) -> None:
        """Write the recipe into `config.yaml`."""
        if recipe:
            text = self.config_file.read_text("utf-8")
            self.config_file.write_text(f"{_RECIPE}{recipe}\n{text}", "utf-8")

    @property
    def record_file(self) -> Path:
        """The file that says what the run was made with, and what it measured."""
        return self.folder / "run.json"

    def record(self) -> dict[str, Any]:
        """Return what `run.json` holds; nothing if it is missing or damaged."""
        with suppress(OSError, ValueError, RecursionError):
            record = json.loads(self.record_file.read_text("utf-8"))
            return record if isinstance(record, dict) else {}
        return {}

    def write_record(self, record: dict[str, Any]) -> None:
        """Write `run.json` as a whole, so that other processes can read it meanwhile."""
        part = self.record_file.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", "utf-8")
        part.replace(self.record_file)

    def options(self) -> dict[str, Any]:
        """Return the options in `config.yaml`; none if it is missing or damaged."""
        import yaml  # here, because completion starts faster without it

        with suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
            options = yaml.safe_load(self.config_file.read_text("utf-8"))
            return options if isinstance(options, dict) else {}
        return {}

    def checkpoint(self, name: str) -> Path:
        """Return the path of the checkpoint "last" or "best"."""
        path = self.folder / f"{name}.ckpt"
        return path if path.exists() else self.folder / "checkpoints" / path.name

    def lock(self) -> "FileLock":
        """Lock the folder, and remove what a killed process has half written.

        Raises:
            UserError: if another process trains there.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / ".lock")
        try:
            with suppress(NotImplementedError):  # a file system without locks
                lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{self.folder} is in use: another process is training there") from None
        for part in self.folder.glob("checkpoints/.*.part"):
            part.unlink()
        return lock

    def is_running(self) -> bool:
        """Say whether a process trains here: whether it holds the lock."""
        from filelock import FileLock, Timeout

        if not (self.folder / ".lock").exists():
            return False
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                return False
        except Timeout:
            return True
        except (NotImplementedError, OSError):  # no locks, or not our folder
            return False

    def latest(self, damaged: list[str]) -> "Resumable | None":
        """Return the readable checkpoint with the most steps; add the others' errors to `damaged`.

        After a full disk that need not be `last.ckpt`.
        """
        found: Resumable | None = None
        for path in (self.checkpoint("last"), self.checkpoint("best")):
            # Normally `last.ckpt` is written after `best.ckpt`, and only one file is read.
            if not path.exists() or (found and path.stat().st_mtime < found.path.stat().st_mtime):
                continue
            try:
                other = read_resumable(path)
                found = other if found is None or other.step > found.step else found
            except NotResumableError:
                continue  # as --small_best asks for
            except UntrustedCodeError:
                raise
            except UserError as error:
                damaged.append(str(error))
        if found is not None and found.path.stem == "best":
            return found._replace(last_is_older=True)
        return found


class Resumable(NamedTuple):
    """A checkpoint to resume from: its file, and what is in it."""

    path: Path
    checkpoint: Checkpoint
    last_is_older: bool = False  # than this `best.ckpt`, which was taken instead

    @property
    def step(self) -> int:
        """The number of steps taken."""
        return int(self.checkpoint.content.get("global_step", 0))

    @property
    def run(self) -> Run | None:
        """The run that wrote it, if it lies in the folder of one."""
        return Run.of(self.path)


def read_resumable(path: str | Path) -> Resumable:
    """Read a checkpoint that has the state of a training.

    Raises:
        UserError: if it cannot be read, or has none.
    """
    checkpoint = read_checkpoint(path)
    if "optimizer_states" not in checkpoint.content:
        raise NotResumableError(
            f"{path} has weights but no training state: resume from last.ckpt, or start a new run "
            "with --init_from"
        )
    return Resumable(Path(path), checkpoint)


def find_runs(root: str | Path, *names: str) -> list[Run]:
    """Return the runs that have a checkpoint of one of these names, the newest first."""
    times: dict[Run, tuple[float, int]] = {}
    for name in names:
        for path in Path(root).rglob(f"version_*/checkpoints/{name}.ckpt"):
            run = Run(path.parents[1])
            if run.version is not None:
                written = (path.stat().st_mtime, run.version)
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
    if given is not None and not os.path.isdir(given):
        return Path(given)
    folder = Path(root if given is None else given)
    own = Run(folder)
    runs = [own] if own.checkpoint("best").exists() else find_runs(folder, "best")
    if not runs:
        raise _no_checkpoint("best", folder)
    return runs[0].checkpoint("best")


def resolve_checkpoint(given: str, root: str | Path = LOG_FOLDER) -> Resumable:
    """Read the checkpoint to resume from: a path, the folder of a run, or "last", which is the
    newest run under `root`. Damaged files are passed over, with a warning, and so are runs that
    have no other.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    if given != "last" and not os.path.isdir(given):
        return read_resumable(given)
    damaged: list[str] = []
    for run in find_runs(root, "last", "best") if given == "last" else [Run(Path(given))]:
        if found := run.latest(damaged):
            for line in damaged:
                warnings.warn(f"{line}; resuming from {found.path} instead", stacklevel=2)
            return found
    where = root if given == "last" else given
    raise UserError(damaged[0]) if damaged else _no_checkpoint("last", where)


def _no_checkpoint(name: str, root: str | Path) -> UserError:
    return UserError(
        f"no {name}.ckpt in {root}: train a model first ({command_line('fit')}), or give the path "
        "of a checkpoint"
    )
