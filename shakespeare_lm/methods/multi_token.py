"""Multi-token prediction (Gloeckle et al. 2024) against overfitting: in training, each position
also predicts the characters after the next, for which its n-grams do not suffice.
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

# Of each further character's loss, at the highest learning rate. 1 is no better (measured: see
# docs/EXPERIMENTS.md).
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
    """Adds the losses of the characters after the next, whose logits its own head computes from the
    hidden states of the network.

    Args:
        network: the network in training.
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
        self.num_further = characters_ahead - 1
        self.head = nn.Linear(config.d_model, self.num_further * network.vocab_size, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, loss: Tensor, step: TrainingStep) -> Tensor:
        return loss + step.schedule * self.loss(step.hidden, step.batch)

    def loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the weighted sum of the further characters' losses, in nats; each is the mean over
        all positions that have a character so far ahead. `hidden` is `[batch, time, d_model]`.
        """
        all_logits = self.head(hidden[:, :-1]).unflatten(-1, (self.num_further, -1))
        losses = []
        for further in range(self.num_further):
            targets, mask = (x[:, 1 + further :] for x in (batch.targets, batch.target_mask))
            logits = all_logits[:, : targets.shape[1], further]
            nats, count = masked_cross_entropy(logits, targets, mask)
            losses.append(nats / count.clamp(min=1))
        return _WEIGHT * torch.stack(losses).sum()
