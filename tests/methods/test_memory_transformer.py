"""A transformer that reads n-grams: where they join, and that nothing of the future comes in."""

import pytest
import torch
from torch import Tensor

from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer

SIZES = {"context_length": 12, "num_layers": 1, "num_heads": 2, "d_model": 8, "memory_order": 3}


def text(count: int, seed: int) -> Tensor:
    return torch.randint(6, (count,), generator=torch.Generator().manual_seed(seed))


def network(**options: object) -> MemoryTransformer:
    torch.manual_seed(0)
    made = MemoryTransformer(7, NetworkConfig(**{**SIZES, **options}))  # type: ignore[arg-type]
    made.ngrams.remember(text(200, 1), torch.tensor([200]))
    return made.eval()


def test_at_first_its_probabilities_are_those_of_the_ngram_model() -> None:
    made, ids = network(), text(12, 2)[None]
    torch.testing.assert_close(
        made(ids).log_softmax(-1), made.ngrams(ids).log_probabilities, rtol=1e-4, atol=1e-4
    )


def test_what_is_read_is_added_to_the_embeddings_and_what_is_trusted_to_the_logits() -> None:
    made, ids = network(zero_init=False), text(12, 2)[None]
    made.trust.data.fill_(0.5)
    features, log_probabilities = made.ngrams(ids)
    plain = CausalTransformer.forward(made, ids, added=features @ made.read_ngrams.weight.T)
    torch.testing.assert_close(made(ids), plain + 0.5 * log_probabilities)


def test_mixed_probabilities_are_its_share_of_the_ngram_model_and_the_rest_of_the_network() -> None:
    made, ids = network(zero_init=False, memory_share=0.2), text(12, 2)[None]
    expected, own = made.ngrams.probabilities(ids), CausalTransformer.forward(made, ids).softmax(-1)
    torch.testing.assert_close(made(ids).exp(), 0.2 * expected + 0.8 * own)
    own = CausalTransformer.forward(made, ids)
    torch.testing.assert_close(made.train()(ids, own=ids), own)  # it learns alone
    assert {name for name, _ in made.named_parameters()} == {
        name for name, _ in CausalTransformer(7, made.config).named_parameters()
    }


def test_a_share_needs_a_memory_to_mix_with() -> None:
    with pytest.raises(UserError, match=r"memory_share is 0\.2 and memory_order is 0: there is no"):
        NetworkConfig(memory_share=0.2)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_later_characters_do_not_change_earlier_logits(share: float) -> None:
    made, ids = network(zero_init=False, memory_share=share), text(12, 2)[None]
    changed = ids.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 6
    before, after = made(ids), made(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_padding_on_the_left_changes_nothing(share: float) -> None:
    made, ids = network(zero_init=False, memory_share=share, positions="rotary"), text(6, 2)[None]
    mask = torch.tensor([[False] * 3 + [True] * 6])
    padded = torch.nn.functional.pad(ids, (3, 0), value=2)
    torch.testing.assert_close(made(padded, mask)[:, 3:], made(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_the_own_occurrence_is_left_out_in_training(share: float) -> None:
    made = network(memory_share=share)
    ids, targets = text(200, 1)[None, 50:62], text(200, 1)[None, 51:63]
    with_own, without = (
        made(ids, own=own).log_softmax(-1).gather(-1, targets[..., None]).mean()
        for own in (None, targets)
    )
    assert without < with_own - 0.1
