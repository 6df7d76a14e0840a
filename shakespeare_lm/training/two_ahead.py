"""A second prediction in training: each position also predicts the character after the next
(multi-token prediction, Gloeckle et al. 2024), against overfitting.

Enters: what the network passes to its head, and the batch. Leaves: a second term of the training
loss. To say what comes after the next character, a position has to know more than its n-grams. Only
training knows the second head; it stays out of the network.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError, check_at_least, check_types
from shakespeare_lm.network.build import Network
from shakespeare_lm.network.memory_transformer import MemoryTransformer
from shakespeare_lm.network.transformer import CausalTransformer
from shakespeare_lm.training.loss import masked_cross_entropy


@dataclass(frozen=True, kw_only=True)
class TwoAheadConfig:
    """What else the network predicts in training.

    Args:
        two_ahead_loss: weight of a second loss, in which each position predicts the character after
            the next: against overfitting, where the text is read many times. The weight falls with
            the learning rate. val_loss stays that of the next character.

    Raises:
        UserError: if a value has the wrong type or is out of range.
    """

    two_ahead_loss: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, TwoAheadConfig)
        check_at_least(0, two_ahead_loss=self.two_ahead_loss)


class TwoAheadHead(nn.Linear):
    """Maps what the network passes to its head to logits of the character after the next."""

    def __init__(self, d_model: int, vocab_size: int) -> None:
        super().__init__(d_model, vocab_size, bias=False)
        nn.init.zeros_(self.weight)

    def read(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the network's logits of a training batch, and this head's loss on it."""
        assert isinstance(network, CausalTransformer)  # see `build_two_ahead_head`
        if isinstance(network, MemoryTransformer):
            recalled = network.recall(batch.inputs, batch.targets)
            hidden = network.hidden(batch.inputs, added=recalled.added)
            logits = network.join(network.head(hidden), recalled.log_probabilities)
        else:
            hidden = network.hidden(batch.inputs)
            logits = network.head(hidden)
        return logits, self.loss(hidden, batch)

    def loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of all positions with a character after the next, in nats.

        Args:
            hidden: `[batch, time, d_model]`.
            batch: whose inputs it was computed from.
        """
        targets, mask = batch.targets[:, 1:], batch.target_mask[:, 1:]
        nats, count = masked_cross_entropy(self(hidden[:, :-1]), targets, mask)
        return nats / count.clamp(min=1)


def build_two_ahead_head(config: TwoAheadConfig, network: Network) -> TwoAheadHead | None:
    """Return the second head of a training that has one.

    Raises:
        UserError: if the network is not a transformer.
    """
    if not config.two_ahead_loss:
        return None
    if not isinstance(network, CausalTransformer):
        raise UserError(
            f"two_ahead_loss is {config.two_ahead_loss}: expected 0 for the bigram, which is no "
            "transformer"
        )
    return TwoAheadHead(network.config.d_model, network.head.out_features)
