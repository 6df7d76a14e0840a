"""config -> network: the one place that decides between the transformer and the bigram table.

Training, completion and the check of a checkpoint all build their network here.
"""

from shakespeare_lm.network.bigram import BigramTable
from shakespeare_lm.network.config import NetworkConfig
from shakespeare_lm.network.transformer import CausalTransformer

Network = CausalTransformer | BigramTable


def build_network(vocab_size: int, config: NetworkConfig) -> Network:
    """Return a network with freshly initialised weights."""
    if config.network == "bigram":
        return BigramTable(vocab_size)
    return CausalTransformer(vocab_size, config)
