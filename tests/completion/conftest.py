"""Shared by the tests of completion: small networks whose logits depend on every character."""

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.methods.memory_network import MemoryNetwork
from shakespeare_lm.methods.networks import NetworkOptions, build_network
from shakespeare_lm.model.network import Network

# Ten characters, not sorted: with padding as many ids as the networks have.
VOCABULARY = "\nihgfedcba"
NETWORKS: dict[str, dict] = {
    "sinusoidal": {},
    "learned": {"positions": "learned", "norm": "post", "bias": True, "tied_head": True},
    "rotary": {"positions": "rotary", "previous_characters": 0},
    "more_previous_characters_than_context": {"previous_characters": 12},
    "memory": {"memory_order": 3, "previous_characters": 1},
    "longer_memory_than_context": {"memory_order": 12},
    "mixed_memory": {"memory_order": 3, "memory_share": 0.2, "previous_characters": 0},
    "memory_shorter_than_the_lookback": {"memory_order": 2},
    "context_of_1": {"context_length": 1},
    "context_of_3": {"context_length": 3},
}


def random_network(**options: object) -> Network:
    torch.manual_seed(0)
    sizes = {"context_length": 8, "num_layers": 2, "num_heads": 2, "d_model": 8}
    network = build_network(11, NetworkOptions(**{**sizes, "previous_characters": 4, **options}))
    if isinstance(network, MemoryNetwork):
        network.ngrams.remember(torch.randint(10, (300,)), torch.tensor([200, 100]))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)  # small weights would hide mistakes
    return network.eval()


def assert_same(actual: Tensor, expected: Tensor) -> None:
    # The same sums in another order: rounding of logits of order 10 in float32.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def completer(transformer):
    return Completer(transformer, CharTokenizer(VOCABULARY), context_length=8)
