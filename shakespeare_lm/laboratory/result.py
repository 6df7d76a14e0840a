"""What the laboratory knows of one run: a variant of the options, trained with a seed."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Point(NamedTuple):
    """One validation of a run."""

    step: int
    seconds: float  # of training until then, without start-up and validations
    val_loss: float  # nats per character


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run. What an older run did not record is None."""

    variant: str
    seed: int
    val_loss: float  # the lowest, in nats per character
    test_loss: float | None = None  # of the same weights, on the part that decided nothing
    steps: int
    characters: int | None = None  # trained on, repetitions included
    weights: int | None = None  # of the network
    flops_per_character: float | None = None  # of the network, forward and backward
    train_seconds: float | None = None  # without start-up and validations
    seconds: float | None = None  # of the whole process
    peak_memory_bytes: int | None = None
    curve: list[Point] = field(default_factory=list)
    # As in the run's `run.json`: versions, processor, threads, precision, text, commit, command.
    provenance: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # by the names of the command line

    @property
    def flops(self) -> float | None:
        """All operations of the training."""
        if self.flops_per_character is None or self.characters is None:
            return None
        return self.flops_per_character * self.characters


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that crashed."""

    variant: str
    seed: int
    reason: str  # in one line
    log: str  # the file that has its output and traceback
