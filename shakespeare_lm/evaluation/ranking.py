"""Evaluations and baselines -> one ranking, the best first.

Enters: models, and what they are compared with. Leaves: the rows of a table, which the command line
and the report show.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.evaluation import Evaluation


@dataclass(frozen=True, order=True)
class Row:
    """A model and its loss.

    Args:
        nats: per character.
        name: of the model; of one that is evaluated, its run or checkpoint.
        note: how the loss was computed, or where it comes from.
        evaluated: whether it is one of the models that are evaluated, and not a baseline.
    """

    nats: float
    name: str
    note: str
    evaluated: bool

    @property
    def bits(self) -> float:
        """Bits per character."""
        return self.nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """The number of equally likely characters that would be as hard to predict."""
        return math.exp(self.nats)


def ranked(evaluations: Iterable[Evaluation], baselines: Iterable[Baseline]) -> list[Row]:
    """Return all models in one list, the best first; an evaluated one has two rows."""
    rows = [Row(one.nats, one.name, one.note, False) for one in baselines]
    for one in evaluations:
        rows.append(Row(one.block_nats, one.name, "in blocks of the context", True))
        sliding = f"sliding window, {one.stride} new characters each"
        rows.append(Row(one.sliding_nats, one.name, sliding, True))
    return sorted(rows)


def notes(one: Evaluation) -> list[str]:
    """Return what else is to be known about an evaluation."""
    found = [] if one.warning is None else [f"not the data of its training: {one.warning}"]
    if one.agrees:
        found.append(f"its stored val_loss, {one.stored_val_loss:.6f}, is the same")
    elif one.agrees is False:
        found.append(
            f"its stored val_loss is {one.stored_val_loss:.6f}, recomputed {one.block_nats:.6f}: "
            "another device or precision"
        )
    return found
