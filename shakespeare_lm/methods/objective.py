"""The seam between training and what changes its loss: multi-token prediction, teachers, and
objectives of your own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Batch, Documents
from shakespeare_lm.model.network import Network


class TrainingStep(NamedTuple):
    """What the loss of a step was computed from."""

    batch: Batch
    hidden: Tensor  # `[batch, time, d_model]`
    logits: Tensor  # `[batch, time, vocab]`
    schedule: float  # the learning rate, as a factor of the highest one


class Preparation(NamedTuple):
    """What an objective can use before the first step."""

    network: Network
    tokenizer: CharTokenizer
    device: torch.device
    training_part: Callable[[], Documents]


class Objective(nn.Module):
    """Changes the loss of a training step.

    Its parameters are trained and saved with the network's, which does not depend on them.
    """

    def load(self, read: Callable[[str], Any], tokenizer: CharTokenizer) -> None:
        """Read the checkpoints that it needs, before the run has a folder: `read` returns the one
        at a path, or of a run.
        """

    def prepare(self, preparation: Preparation) -> None:
        """Get ready for the first step, on the training's device."""

    def forward(self, loss: Tensor, step: TrainingStep) -> Tensor:
        """Return the new loss, in nats per character; `loss` is the mean cross-entropy, as changed
        by the objectives before this one.
        """
        raise NotImplementedError
