"""An n-gram model teaches the network: distillation (Hinton, Vinyals & Dean 2015) against
overfitting.

Enters: logits and their batch. Leaves: their cross-entropy against what a frozen Kneser-Ney model
of the training part expects, as a second term of the training loss. The text says only which
character followed; the n-grams say which others could have, so a network that reads the text many
times memorises less of it. Only training knows the teacher.
"""

from dataclasses import dataclass

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import check_fraction, check_types
from shakespeare_lm.network.build import Network
from shakespeare_lm.network.memory import NGramMemory
from shakespeare_lm.network.memory_transformer import MemoryTransformer
from shakespeare_lm.training.filled_memory import remember_training_part

# The order that predicts tiny Shakespeare best.
_ORDER = 7


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """What the network is taught besides the text.

    Args:
        ngram_distillation: share of the training loss that compares the network with a 7-gram model
            of the training part instead of with the text: against overfitting, where the text is
            read many times. val_loss stays the loss on the text.

    Raises:
        UserError: if a value has the wrong type or is out of range.
    """

    ngram_distillation: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, DistillationConfig)
        check_fraction(ngram_distillation=self.ngram_distillation)


class NGramTeacher:
    """A frozen n-gram model of the training part; it is not part of any checkpoint.

    Args:
        share: of the training loss, from 0 to 1.
        ngrams: the model, filled.
    """

    def __init__(self, share: float, ngrams: NGramMemory) -> None:
        self.share, self.ngrams = share, ngrams

    def mixed_loss(self, loss: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss with the teacher's share in it.

        Args:
            loss: the mean cross-entropy against the text.
            logits: of the batch, `[batch, time, vocab]`.
            batch: from the training part, whose own occurrences the teacher leaves out.
        """
        expected = self.ngrams.probabilities(batch.inputs, own=batch.targets)
        nats, count = cross_entropy_with(expected, logits, batch.target_mask)
        return torch.lerp(loss, nats / count.clamp(min=1), self.share)


def cross_entropy_with(
    probabilities: Tensor, logits: Tensor, target_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of logits with given distributions, summed over the real targets, in
    nats, and their number: as `masked_cross_entropy`, with probabilities `[batch, time, vocab]`
    for the targets.
    """
    nats = -(probabilities * logits.float().log_softmax(-1)).sum(-1)
    return nats.masked_fill(~target_mask, 0.0).sum(), target_mask.sum()


def find_teacher(
    config: DistillationConfig, network: Network, vocab_size: int, trainer: Trainer
) -> NGramTeacher | None:
    """Return the teacher of a training that has one: the memory of the network, or a new model.

    Raises:
        UserError: if the Trainer has no data module of this project.
    """
    if not config.ngram_distillation:
        return None
    if isinstance(network, MemoryTransformer):
        return NGramTeacher(config.ngram_distillation, network.ngrams)
    ngrams = NGramMemory(vocab_size, _ORDER).to(trainer.strategy.root_device)
    remember_training_part(ngrams, trainer)
    return NGramTeacher(config.ngram_distillation, ngrams)
