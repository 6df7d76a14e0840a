"""What a network is: one path from ids to logits; and the smallest one, the bigram table."""

import pytest
import torch
from torch import Tensor, nn

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.network import Network, Past


class RunningMean(Network):
    """Predicts from the mean of the embeddings so far: the smallest network with a past."""

    reads_past = True

    def __init__(self, vocab_size: int, config: NetworkConfig) -> None:
        super().__init__(vocab_size, config)
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.head = nn.Linear(config.d_model, vocab_size)

    def embed(self, ids: Tensor, past: Past | None = None) -> Tensor:
        return self.embedding(ids)

    def hidden(
        self, x: Tensor, attention_mask: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        known = x
        if past is not None:
            known = past.extend(0, torch.stack((x, x))[:, :, None])[0, :, 0]  # one head
        if known.shape[1] == x.shape[1]:  # a whole window
            return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        if past is not None and past.mask is not None:
            known = known.where(past.mask[:, 0, 0, :, None], torch.nan)
        return known.nanmean(1, keepdim=True)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)


@pytest.fixture(params=[RunningMean, BigramTable])
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    return request.param(7, NetworkConfig(context_length=6, d_model=4, num_heads=1)).eval()


def test_a_subclass_defines_three_steps_and_forward_is_all_of_them(network: Network) -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    hidden, logits = network(ids, with_hidden=True)
    assert torch.equal(hidden, network.hidden(network.embed(ids)))
    assert torch.equal(logits, network.logits(hidden))
    assert torch.equal(network(ids), logits)
    assert network.padding_id == 6


def test_ids_under_the_mask_are_padding(network: Network) -> None:
    mask = torch.tensor([[True, True, False]])
    masked = network(torch.tensor([[1, 2, 3]]), mask)
    assert torch.equal(masked, network(torch.tensor([[1, 2, network.padding_id]])))


@torch.inference_mode()
@pytest.mark.parametrize("fixed_shape", [False, True])
def test_a_network_of_ones_own_completes_with_a_cache(network: Network, fixed_shape: bool) -> None:
    cached = CachedForward(network)
    cache = cached.new_cache(3, fixed_shape)
    windows = [[1, 2, 3], [4], []]
    cached.prefill(cache, torch.arange(3), windows)
    for new in ([5, 0, 1], [2, 2, 4], [3, 1, 0]):
        windows = [[*window, one] for window, one in zip(windows, new, strict=True)]
        expected = torch.stack([network(torch.tensor([window]))[0, -1] for window in windows])
        torch.testing.assert_close(cached.step(cache, torch.tensor(new)), expected)


def test_a_bigram_table_sees_the_last_character_alone() -> None:
    table = BigramTable(5, NetworkConfig(network="bigram"))
    logits = table(torch.tensor([[1, 2, 3], [4, 0, 3]]))
    assert logits.shape == (2, 3, 5)
    assert torch.equal(logits[0, 2], logits[1, 2])
    assert torch.equal(logits[0, 0], table.table.weight[1])
