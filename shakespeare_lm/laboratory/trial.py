"""One run of a variant: trained by `fit` in a process of its own, so that a crash, a leak or an
`os._exit` of an idea does not touch the others; and read from its folder afterwards.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shakespeare_lm.checkpoint.reading import read_archive
from shakespeare_lm.checkpoint.runs import LOG_FOLDER, Run, find_runs
from shakespeare_lm.errors import UserError, printable
from shakespeare_lm.laboratory.result import Point, Result

_POLL_SECONDS = 0.2
# Signals that end a run which can be resumed: Ctrl-C, SIGTERM, SIGHUP, SIGUSR1.
_INTERRUPTED = (130, 143, 129, 138)
_QUIET = ("--compare_with_ngrams=false", "--pictures=false")


class RunFailedError(Exception):
    """A run ended with an error; the message is its last line."""


class Pruned(Exception):  # noqa: N818
    """A run is stopped because others are better."""


@dataclass(frozen=True)
class TrainedRun:
    """A run in `lightning_logs/study/variant/seed_N/`, whether it has been trained or not."""

    study: str
    variant: str
    seed: int
    words: list[str]  # for `fit`
    quiet: bool = True  # without what an experiment does not need: pictures, n-gram models

    @property
    def name(self) -> str:
        """What `fit --name` calls it."""
        return f"{self.study}/{self.variant}/seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """Where its attempts are; all but the newest ended before their first checkpoint."""
        return Path(LOG_FOLDER, self.name)

    @property
    def log_file(self) -> Path:
        """What `fit` printed, and its traceback if it crashed."""
        return self.folder / "fit.log"

    def record(self) -> dict[str, Any]:
        """Return what it measured, as in `run.json`; nothing if it has no checkpoint."""
        found = find_runs(self.folder, "last", "best")
        return found[0].record() if found else {}

    def train(self, watch: Callable[[list[Point]], None] | None = None) -> Result:
        """Train it, or the rest of it, and return how it ended; one that is finished is only read.

        Args:
            watch: called with the validations since the last call; what it raises stops the run.

        Raises:
            RunFailedError: if it crashed.
            KeyboardInterrupt: if it was interrupted, after it was saved.
        """
        # A process whose parent was killed trains on.
        while any(Run(path).is_running() for path in self.folder.glob("version_*")):
            time.sleep(_POLL_SECONDS)
        found = find_runs(self.folder, "last", "best")
        if not (found and found[0].record().get("state") == "finished"):
            self._fit(["--ckpt_path", str(found[0].folder)] if found else [], watch)
            found = find_runs(self.folder, "last", "best")
        if not found:
            raise RunFailedError("it left no checkpoint")
        return read_result(found[0], self.variant)

    def _fit(self, more: list[str], watch: Callable[[list[Point]], None] | None) -> None:
        command = [sys.executable, "-m", "shakespeare_lm", "fit", *self.words, *more, "--traceback"]
        command += [f"--name={self.name}", f"--seed_everything={self.seed}"]
        command += _QUIET if self.quiet else ()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                self._wait(process, watch)
            except BaseException:  # at Ctrl-C the terminal has told the run, too
                process.terminate()
                process.wait()
                raise
        if process.returncode in _INTERRUPTED:
            raise KeyboardInterrupt
        if process.returncode:
            raise RunFailedError(self._last_line() or f"exit code {process.returncode}")

    def _wait(
        self, process: "subprocess.Popen[bytes]", watch: Callable[[list[Point]], None] | None
    ) -> None:
        seen = 0
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            curve = _curve(self.record()) if watch else []
            if watch and len(curve) > seen:
                new, seen = curve[seen:], len(curve)
                watch(new)

    def _last_line(self) -> str:
        lines = self.log_file.read_text("utf-8", "replace").split("\n")
        return printable(next((line.strip() for line in reversed(lines) if line.strip()), ""))[:300]


def read_result(run: Run, variant: str) -> Result:
    """Return how a run ended, from its `run.json`; of an older run, what its checkpoint says.

    Raises:
        UserError: if it has no validation.
    """
    record, options = run.record(), flat_options(run.options())
    curve = _curve(record)
    losses = [point.val_loss for point in curve]
    if not curve:
        content = read_archive(run.checkpoint("best"))
        stored = (content.get("validation") or {}).get("val_loss")
        losses = [stored] if isinstance(stored, float) else []
        record = {"steps": content.get("global_step", 0)}
    if not losses:
        raise UserError(f"{run.folder} has no validation yet: train it to its end first")
    measured = ("characters", "weights", "flops_per_character", "train_seconds", "seconds",
                "peak_memory_bytes", "test_loss")  # fmt: skip
    return Result(
        variant=variant,
        seed=int(options.get("seed_everything", 0)),
        val_loss=min(losses),
        steps=int(record.get("steps", 0)),
        curve=curve,
        provenance=_provenance(record.get("processes", [])),
        options=options,
        **{name: record.get(name) for name in measured},
    )


def read_results(folder: Path) -> list[Result]:
    """Return the results of a run, or of all runs in a folder, which is then the variant's name.

    Raises:
        UserError: if the folder has no runs.
    """
    own = Run(folder)
    runs = [own] if own.checkpoint("best").exists() else find_runs(folder, "best")
    if not runs:
        raise UserError(f"no runs in {folder}: expected folders version_N with checkpoints")
    return [read_result(run, folder.as_posix()) for run in runs]


def _curve(record: dict[str, Any]) -> list[Point]:
    return [
        Point(one["step"], one["train_seconds"], one["val_loss"])
        for one in record.get("validations", [])
        if one["val_loss"] is not None and one["train_seconds"] is not None
    ]


def _provenance(processes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the processes of a run have in common; where they differ, all values."""
    merged: dict[str, Any] = {}
    for process in processes:
        for name, value in process.items():
            before = merged.setdefault(name, value)
            if before != value:
                merged[name] = f"{before}, then {value}"
    return merged


def flat_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seed and the options of the groups by their names on the command line."""
    groups = ("model", "data", "trainer")
    named = {
        f"{group}.{name}": value
        for group in groups
        for name, value in (options.get(group) or {}).items()
    }
    return {"seed_everything": options.get("seed_everything"), **named}
