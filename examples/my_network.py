"""A network of your own: a gated recurrent unit (Cho et al. 2014), which has no attention.

python scripts/fit.py --model examples.my_network.GRU --model.optimizer adamw
export SHAKESPEARE_LM_NETWORKS=examples.my_network.GRU  # the code may run for its checkpoints
python scripts/complete.py --prompt ROMEO:
"""

from torch import Tensor, nn

from shakespeare_lm import Network, NetworkConfig


class GRU(Network):
    """`num_layers` recurrent layers of width `d_model`."""

    def __init__(self, vocab_size: int, config: NetworkConfig) -> None:
        super().__init__(vocab_size, config)
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.gru = nn.GRU(config.d_model, config.d_model, config.num_layers, batch_first=True)
        self.head = nn.Linear(config.d_model, vocab_size)

    def embed(self, ids: Tensor, past: object = None) -> Tensor:
        """Map ids `[batch, time]` to vectors `[batch, time, d_model]`."""
        return self.embedding(ids)

    def hidden(self, x: Tensor, attention_mask: object = None, past: object = None) -> Tensor:
        """Map embeddings to hidden states, which see the characters before them."""
        return self.gru(x)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states to logits, `[batch, time, vocab]`."""
        return self.head(hidden)
