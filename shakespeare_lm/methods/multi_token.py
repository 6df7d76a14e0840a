"""Multi-token prediction (Gloeckle et al. 2024) against overfitting: in training, each position
also predicts the characters after the next.

To say what comes after the next character, a position has to know more than its n-grams.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError, check_at_least, check_types
from shakespeare_lm.methods.objective import Objective, TrainingStep
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.model.network import Network

# Of the loss of each character after the next, at the highest learning rate. 1 is no better
# (measured: see the CHANGELOG).
_WEIGHT = 0.5


@dataclass(frozen=True, kw_only=True)
class MultiTokenConfig:
    """What else the network predicts in training.

    Args:
        characters_ahead: number of following characters that each position predicts in training;
            more than 1 reduces overfitting where the text is read many times. The loss of each
            character after the next has a weight of 0.5, which falls with the learning rate.
            val_loss stays that of the next character.

    Raises:
        UserError: if a value has the wrong type or is out of range.
    """

    characters_ahead: int = 1

    ADDED: ClassVar[dict[str, Any]] = {"characters_ahead": 1}

    def __post_init__(self) -> None:
        check_types(self, MultiTokenConfig)
        check_at_least(1, characters_ahead=self.characters_ahead)


class MultiTokenPrediction(Objective):
    """Maps hidden states to the logits of the characters after the next, and adds their losses.

    Args:
        network: whose own logits are those of the next character, at distance 1.
        characters_ahead: distance of the last predicted character, at least 2.

    Raises:
        UserError: if the network has no hidden states, or no window has so many characters.
    """

    def __init__(self, network: Network, characters_ahead: int) -> None:
        super().__init__()
        config = network.config
        if config.network == "bigram":
            raise UserError(
                f"characters_ahead is {characters_ahead}: expected 1 for the bigram, which has no "
                "hidden states"
            )
        if characters_ahead > config.context_length:
            raise UserError(
                f"characters_ahead is {characters_ahead}: expected at most the context_length, "
                f"{config.context_length}"
            )
        self.further = characters_ahead - 1
        self.head = nn.Linear(config.d_model, self.further * network.vocab_size, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, loss: Tensor, step: TrainingStep) -> Tensor:
        return loss + step.schedule * self.loss(step.hidden, step.batch)

    def loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the weighted sum of one loss for each character after the next: the mean
        cross-entropy of all positions that have one so far ahead, in nats.

        Args:
            hidden: `[batch, time, d_model]`.
            batch: whose inputs it was computed from.
        """
        logits = self.head(hidden[:, :-1]).unflatten(-1, (self.further, -1))
        losses = []
        for character in range(self.further):
            targets = batch.targets[:, 1 + character :]
            mask = batch.target_mask[:, 1 + character :]
            nats, count = masked_cross_entropy(
                logits[:, : targets.shape[1], character], targets, mask
            )
            losses.append(nats / count.clamp(min=1))
        return _WEIGHT * torch.stack(losses).sum()
