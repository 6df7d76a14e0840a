"""hyperparameters -> network: the one place that decides between transformer and bigram table.

Training and completion both come through here, so a checkpoint always yields the network that was
trained.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from shakespeare_lm.bigram import BigramTable
from shakespeare_lm.tokenizer import CharTokenizer
from shakespeare_lm.transformer import CausalTransformer

# Everything that shapes the weights, as named in the hyperparameters.
NETWORK_OPTIONS = (
    "network",
    "vocabulary",
    *(name for name in inspect.signature(CausalTransformer).parameters if name != "vocab_size"),
)


def build_network(hyperparameters: Mapping[str, Any]) -> CausalTransformer | BigramTable:
    """Return a freshly initialised network.

    Raises:
        UserError: for values that make no network.
        KeyError: if one of `NETWORK_OPTIONS` is missing.
    """
    options = {name: hyperparameters[name] for name in NETWORK_OPTIONS}
    vocab_size = CharTokenizer(options.pop("vocabulary")).vocab_size
    if options.pop("network") == "bigram":
        return BigramTable(vocab_size)
    return CausalTransformer(vocab_size, **options)
