"""Searches ranges of options: by Optuna's TPE, with pruning of the worse half."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shakespeare_lm.checkpoint.runs import LOG_FOLDER
from shakespeare_lm.errors import UserError
from shakespeare_lm.laboratory.result import Point
from shakespeare_lm.laboratory.study import (
    Say,
    finish,
    import_optuna,
    train_next,
    train_waiting,
)
from shakespeare_lm.laboratory.trial import Pruned, TrainedRun

SEED = 0  # of all runs; those that are reported have others
_KINDS = ("log", "linear", "int")
Value = str | int | float


@dataclass(frozen=True)
class Range:
    """The values of an option that a sweep tries: choices, or from low to high."""

    low: float = 0.0
    high: float = 0.0
    kind: str = "choice"  # or log, linear, int
    choices: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> tuple[str, "Range"]:
        """Read `option=log:1e-3:3e-2` (or linear, int) or `option=gelu,relu`.

        Raises:
            UserError: if it is neither.
        """
        name, _, value = text.partition("=")
        kind, *ends = value.split(":")
        expected = (
            f"sweep is {text!r}: expected OPTION=log:LOW:HIGH with 0 < LOW < HIGH, linear, int "
            "(whole numbers), or OPTION=A,B"
        )
        if not ends and len(value.split(",")) > 1:
            return name.strip(), cls(choices=tuple(value.split(",")))
        try:
            low, high = map(float, ends)
        except ValueError:
            raise UserError(expected) from None
        is_whole = kind != "int" or (low.is_integer() and high.is_integer())
        starts = low > 0 or kind != "log"
        if kind not in _KINDS or not (low < high < math.inf and is_whole and starts):
            raise UserError(expected)
        return name.strip(), cls(low, high, kind)

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that must be valid for all others to be."""
        low, high = (int(end) if self.kind == "int" else end for end in (self.low, self.high))
        return self.choices or (low, high)

    def suggest(self, trial: Any, name: str) -> Value:
        """Return the value that a trial of Optuna's tries."""
        if self.choices:
            return str(trial.suggest_categorical(name, self.choices))
        if self.kind == "int":
            return int(trial.suggest_int(name, int(self.low), int(self.high)))
        value = trial.suggest_float(name, self.low, self.high, log=self.kind == "log")
        return float(f"{value:.3g}")


def sweep(
    study: Any, folder: str, base: list[str], ranges: Mapping[str, Range], trials: int, say: Say
) -> list[str]:
    """Try so many combinations of options, all with one seed; return the best as words for `fit`.

    A run that is worse than the median of the others after as many steps is stopped.

    Raises:
        UserError: if no run ended.
    """

    def train(trial: Any) -> float:
        words = [f"--{name}={one.suggest(trial, name)}" for name, one in ranges.items()]
        attempt = trial.user_attrs.get("attempt", trial.number)  # of one that was interrupted
        for name, value in (("words", words), ("attempt", attempt)):
            trial.set_user_attr(name, value)
        run = TrainedRun(folder, f"sweep-{attempt}", SEED, [*base, *words])
        told = f"{attempt + 1} of {trials}: {' '.join(words)}"
        try:
            result = finish(trial, run, say, lambda points: _report(trial, points))
        except Pruned:
            say(f"{told}: stopped early")
            raise import_optuna().TrialPruned() from None
        except KeyboardInterrupt:
            study.enqueue_trial(trial.params, user_attrs={"attempt": attempt})
            raise
        say(f"{told}: {result.val_loss:.4f}")
        return result.val_loss

    # If another process does the same at this moment, there is one more than asked for.
    while len({_attempt(trial) for trial in study.get_trials(deepcopy=False)}) < trials:
        train_next(study, train, say)
    train_waiting(study, train, say)
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    say(f"{states.count('PRUNED')} of {trials} were stopped early")
    if "COMPLETE" not in states:
        raise UserError(f"none of {trials} runs ended: see {Path(LOG_FOLDER, folder)}")
    return list(study.best_trial.user_attrs["words"])


def _attempt(trial: Any) -> int:
    return int(trial.user_attrs.get("attempt", trial.number))


def _report(trial: Any, points: list[Point]) -> None:
    for point in points:
        trial.report(point.val_loss, point.step)
    if trial.should_prune():
        raise Pruned
