"""More predictions in training: each position also predicts characters after the next (multi-token
prediction, Gloeckle et al. 2024), against overfitting.

Enters: what the network passes to its head, and the batch. Leaves: a second term of the training
loss. To say what comes after the next character, a position has to know more than its n-grams. Only
training knows this further head; it stays out of the network.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError, check_at_least, check_types
from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.methods.networks import Network
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.model.transformer import CausalTransformer

# Of the loss of each character after the next, at the highest learning rate. 1 is no better
# (measured: see the CHANGELOG).
_WEIGHT = 0.5


@dataclass(frozen=True, kw_only=True)
class CharactersAheadConfig:
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

    def __post_init__(self) -> None:
        check_types(self, CharactersAheadConfig)
        check_at_least(1, characters_ahead=self.characters_ahead)


class FurtherHead(nn.Linear):
    """Maps what the network passes to its head to logits of the characters after the next.

    Args:
        d_model: width of the network.
        vocab_size: number of symbols.
        characters_ahead: distance of the last predicted character, at least 2. The network's own
            head predicts the next character, at distance 1.
    """

    def __init__(self, d_model: int, vocab_size: int, characters_ahead: int) -> None:
        super().__init__(d_model, (characters_ahead - 1) * vocab_size, bias=False)
        self.characters_ahead = characters_ahead
        nn.init.zeros_(self.weight)

    def logits_and_loss(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the network's logits of a training batch, and this head's loss on it."""
        assert isinstance(network, CausalTransformer)  # see `build_further_head`
        if isinstance(network, MemoryTransformer):
            recalled = network.recall(batch.inputs, batch.targets)
            hidden = network.hidden(batch.inputs, added=recalled.added)
            logits = network.join(network.head(hidden), recalled.log_probabilities)
        else:
            hidden = network.hidden(batch.inputs)
            logits = network.head(hidden)
        return logits, self.loss(hidden, batch)

    def loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the weighted sum of one loss for each character after the next: the mean
        cross-entropy of all positions that have one so far ahead, in nats.

        Args:
            hidden: `[batch, time, d_model]`.
            batch: whose inputs it was computed from.
        """
        further = self.characters_ahead - 1
        logits = self(hidden[:, :-1]).unflatten(-1, (further, -1))
        losses = []
        for character in range(further):
            targets = batch.targets[:, 1 + character :]
            mask = batch.target_mask[:, 1 + character :]
            nats, count = masked_cross_entropy(
                logits[:, : targets.shape[1], character], targets, mask
            )
            losses.append(nats / count.clamp(min=1))
        return _WEIGHT * torch.stack(losses).sum()


def build_further_head(config: CharactersAheadConfig, network: Network) -> FurtherHead | None:
    """Return the further head of a training that has one.

    Raises:
        UserError: if the network is not a transformer, or no window has so many characters.
    """
    if config.characters_ahead == 1:
        return None
    if not isinstance(network, CausalTransformer):
        raise UserError(
            f"characters_ahead is {config.characters_ahead}: expected 1 for the bigram, which is "
            "no transformer"
        )
    if config.characters_ahead > network.config.context_length:
        raise UserError(
            f"characters_ahead is {config.characters_ahead}: expected at most the context_length, "
            f"{network.config.context_length}"
        )
    return FurtherHead(network.config.d_model, network.head.out_features, config.characters_ahead)
