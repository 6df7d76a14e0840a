"""What training minimises besides the cross-entropy of the next character: the seam that
multi-token prediction, both kinds of teacher and objectives of one's own join.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Batch, Documents
from shakespeare_lm.model.network import Network


class TrainingStep(NamedTuple):
    """What an objective can look at.

    Args:
        batch: from the training part.
        hidden: what the network passes to `logits`, `[batch, time, d_model]`.
        logits: `[batch, time, vocab]`.
        schedule: the learning rate as a factor of the highest one.
    """

    batch: Batch
    hidden: Tensor
    logits: Tensor
    schedule: float


class Preparation(NamedTuple):
    """What an objective can get before the first step.

    Args:
        network: that is trained.
        tokenizer: its characters.
        device: of the training.
        training_part: returns the text.
    """

    network: Network
    tokenizer: CharTokenizer
    device: torch.device
    training_part: Callable[[], Documents]


class Objective(nn.Module):
    """Changes the loss of a training step.

    Its parameters are trained with the network's and are in the checkpoint; the network does not
    know it, and is the same without it.
    """

    def load(self, read: Callable[[str], Any], tokenizer: CharTokenizer) -> None:
        """Read the checkpoints that it needs, before the run has a folder.

        Args:
            read: returns the checkpoint at a path, or of a run.
            tokenizer: of the network that is trained.
        """

    def prepare(self, preparation: Preparation) -> None:
        """Get ready for the first step."""

    def forward(self, loss: Tensor, step: TrainingStep) -> Tensor:
        """Return the new loss, in nats per character.

        Args:
            loss: the mean cross-entropy, as the objectives before this one have changed it.
            step: what it was computed from.
        """
        raise NotImplementedError
