"""A teacher for the network: distillation (Hinton, Vinyals & Dean 2015) against overfitting.

Enters: logits and their batch. Leaves: their cross-entropy against what the teacher expects, as a
part of the training loss. The text says only which character followed; a teacher says which others
could have, so a network that reads the text many times memorises less of it. Only training knows
the teacher.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError, check_fraction, check_types
from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.methods.ngram_memory import NGramMemory


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


class Teacher(ABC):
    """Knows what to expect after each position; it is not part of any checkpoint.

    Args:
        share: of the training loss, from 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    @abstractmethod
    def probabilities(self, batch: Batch) -> Tensor:
        """Return the distributions of the targets of a training batch, `[batch, time, vocab]`,
        without gradients.
        """

    def mixed_loss(self, loss: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss with the teacher's share in it.

        Args:
            loss: the mean cross-entropy against the text.
            logits: of the batch, `[batch, time, vocab]`.
            batch: from the training part.
        """
        nats, count = cross_entropy_with(self.probabilities(batch), logits, batch.target_mask)
        return torch.lerp(loss, nats / count.clamp(min=1), self.share)


class NGramTeacher(Teacher):
    """A frozen n-gram model of the training part, which leaves out a batch's own occurrences.

    Args:
        share: of the training loss, from 0 to 1.
        ngrams: the model, filled.
    """

    def __init__(self, share: float, ngrams: NGramMemory) -> None:
        super().__init__(share)
        self.ngrams = ngrams

    def probabilities(self, batch: Batch) -> Tensor:
        return self.ngrams.probabilities(batch.inputs, own=batch.targets)


class NetworkTeacher(Teacher):
    """The mean prediction of trained networks.

    Args:
        share: of the training loss, from 0 to 1.
        networks: each maps ids `[batch, time]` to logits `[batch, time, vocab]`.
    """

    def __init__(self, share: float, networks: list[nn.Module]) -> None:
        super().__init__(share)
        self.networks = [network.eval().requires_grad_(False) for network in networks]

    @torch.no_grad()
    def probabilities(self, batch: Batch) -> Tensor:
        predictions = [self._logits(one, batch).float().softmax(-1) for one in self.networks]
        return torch.stack(predictions).mean(0)

    def _logits(self, network: nn.Module, batch: Batch) -> Tensor:
        # A memory of this very text is not to look up the answers.
        own = {"own": batch.targets} if isinstance(network, MemoryTransformer) else {}
        logits: Tensor = network(batch.inputs, **own)
        return logits


def cross_entropy_with(
    probabilities: Tensor, logits: Tensor, target_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of logits with given distributions, summed over the real targets, in
    nats, and their number: as `masked_cross_entropy`, with probabilities `[batch, time, vocab]`
    for the targets.
    """
    nats = -(probabilities * logits.float().log_softmax(-1)).sum(-1)
    return nats.masked_fill(~target_mask, 0.0).sum(), target_mask.sum()
