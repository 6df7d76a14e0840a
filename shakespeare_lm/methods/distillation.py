"""Distillation (Hinton, Vinyals & Dean 2015) against overfitting: a teacher's prediction is a
second target.

The text says only which character followed; a teacher says which others could have, so a network
that reads the text many times memorises less of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError, check_fraction, check_types
from shakespeare_lm.hardware import has_fast_bfloat16
from shakespeare_lm.methods.ensemble import Ensemble
from shakespeare_lm.methods.ngram_memory import LogProbabilities, NGramMemory, leaving_out
from shakespeare_lm.methods.objective import Objective, Preparation, TrainingStep
from shakespeare_lm.methods.sliding_window import predictions
from shakespeare_lm.model.network import Network

T = TypeVar("T")

# The order that predicts tiny Shakespeare best.
_ORDER = 7
_NGRAM_WINDOW = 1024
# A table takes 2 bytes per character and symbol: 132 MB for tiny Shakespeare.
_MOST_TABLE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """What the network is taught besides the text.

    Args:
        ngram_distillation: share of the training loss that compares the network with a 7-gram model
            of the training part (or with its own memory, of memory_order) instead of with the text:
            against overfitting, where the text is read many times. val_loss stays the loss on the
            text.
        distillation: share of the training loss that compares the network with its teachers instead
            of with the text and the n-grams.
        teachers: models whose mean prediction teaches this one: checkpoints or folders of runs,
            separated by commas, of the same characters.

    Raises:
        UserError: if a value has the wrong type or is out of range, or there is a share without
            teachers or the reverse.
    """

    ngram_distillation: float = 0.0
    distillation: float = 0.0
    teachers: str | None = None

    def __post_init__(self) -> None:
        check_types(self, DistillationConfig)
        check_fraction(ngram_distillation=self.ngram_distillation, distillation=self.distillation)
        if bool(self.distillation) != bool(self.teachers):
            raise UserError(
                f"distillation is {self.distillation} and teachers is {self.teachers}: set both "
                "or none"
            )


class Teacher(Objective):
    """Predicts each target of a training batch, for a share of the loss from 0 to 1; it is in no
    checkpoint.

    What it says of a position of the training part never changes, so all of it is computed once,
    where that fits into memory, and only looked up in a step.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        # Maps ids `[batch, time]` to log-probabilities; a list, so that it is in no checkpoint.
        self.models: list[nn.Module] = []
        self.table: Tensor | None = None  # of probabilities, `[characters, vocab]`

    def tabulate(self, preparation: Preparation, window: int) -> None:
        """Predict every character of the training part, from at least half a window where there is
        one; a text whose table is too large is predicted in each step instead.
        """
        part, (model,) = preparation.training_part(), self.models
        shape, device = (len(part.ids), preparation.network.vocab_size), preparation.device
        if 2 * math.prod(shape) > _MOST_TABLE_BYTES:
            return
        rows: list[Tensor] = []
        fast = has_fast_bfloat16(device.type)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=fast):
            for ids in part.ids.split(part.lengths.tolist()):
                rows.append(torch.zeros(min(len(ids), 1), shape[1], dtype=torch.bfloat16))
                if len(ids) > 1:
                    for logits, _ in predictions(model, ids, window, window // 2, is_counted=True):
                        rows.append(logits.float().softmax(-1).bfloat16())
        self.table = torch.cat([row.to(device) for row in rows])

    @torch.no_grad()
    def probabilities(self, batch: Batch) -> Tensor:
        """Return next-character probabilities, `[batch, time, vocab]`, without gradients."""
        if self.table is not None:
            return self.table[batch.positions]
        (model,) = self.models
        with leaving_out(model, batch.targets):
            found: Tensor = model(batch.inputs)
        return found.float().softmax(-1)

    def forward(self, loss: Tensor, step: TrainingStep) -> Tensor:
        """Return the loss with the teacher's share in it."""
        mask = step.batch.target_mask
        nats, count = cross_entropy_with(self.probabilities(step.batch), step.logits, mask)
        return torch.lerp(loss, nats / count.clamp(min=1), self.share)


class NGramTeacher(Teacher):
    """A frozen n-gram model of the training part: the network's own memory, or another."""

    def prepare(self, preparation: Preparation) -> None:
        ngrams = getattr(preparation.network, "ngrams", None)
        if not isinstance(ngrams, NGramMemory):
            vocab_size = preparation.network.vocab_size
            ngrams = NGramMemory(vocab_size, _ORDER, "ngram_distillation").to(preparation.device)
            ngrams.remember(*preparation.training_part())
        self.models = [LogProbabilities(ngrams)]
        self.tabulate(preparation, _NGRAM_WINDOW)


class NetworkTeacher(Teacher):
    """The mean prediction of trained networks: `teachers` are their paths, separated by commas, and
    `context_length` is this run's, which theirs must reach if they are asked in each step.
    """

    def __init__(self, share: float, teachers: str, context_length: int) -> None:
        super().__init__(share)
        self.teachers, self.context_length = teachers, context_length

    def load(self, read: Callable[[str], Any], tokenizer: CharTokenizer) -> None:
        """Read the networks, or raise a `UserError` that says which one does not fit, and why."""

        def network(path: str) -> Network:
            checkpoint = read(path)
            if checkpoint.tokenizer.vocabulary != tokenizer.vocabulary:
                raise UserError("it has other characters than this run's text")
            frozen: Network = checkpoint.network().eval().requires_grad_(False)
            return frozen

        self.models = [Ensemble(find_teachers(self.teachers, network))]

    def prepare(self, preparation: Preparation) -> None:
        self.models = [model.to(preparation.device) for model in self.models]
        length = cast(Ensemble, self.models[0]).config.context_length
        self.tabulate(preparation, length)
        if self.table is None and length < self.context_length:
            raise UserError(
                f"the teachers have a context_length of {length}: for a text of this size, "
                f"expected at least {self.context_length}, as this run has"
            )


def find_teachers(teachers: str, find: Callable[[str], T]) -> list[T]:
    """Return what `find` returns for each path in the option `teachers`; its `UserError` then says
    which teacher it is about.
    """
    found = []
    for path in map(str.strip, teachers.split(",")):
        try:
            found.append(find(path))
        except UserError as error:
            raise UserError(f"the teacher {path}: {error}") from None
    return found


def cross_entropy_with(
    probabilities: Tensor, logits: Tensor, target_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy with soft targets, `[batch, time, vocab]`, summed over the real
    targets, in nats, and their number; with hard ones that is `masked_cross_entropy`.
    """
    nats = -(probabilities * logits.float().log_softmax(-1)).sum(-1)
    return nats.masked_fill(~target_mask, 0.0).sum(), target_mask.sum()
