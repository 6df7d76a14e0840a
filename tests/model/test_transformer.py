"""The transformer: parity with a reference, causality, padding, initial state."""

import math
import re
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.model.config import Activation, NetworkConfig, Norm, PositionKind
from shakespeare_lm.model.transformer import Block, CausalTransformer

EVERY_KIND = pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])


def small(vocab_size: int = 11, **options: object) -> CausalTransformer:
    """Return a transformer with one layer of one head, unless the options say otherwise."""
    torch.manual_seed(0)
    sizes = {"context_length": 8, "num_layers": 1, "num_heads": 1, "d_model": 8}
    return CausalTransformer(vocab_size, NetworkConfig(**{**sizes, **options}))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_block_equals_the_layer_of_torch_in_outputs_and_gradients(
    norm: Norm, activation: Activation
) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        d_model=8, num_heads=2, d_feedforward=16, norm=norm, activation=activation, bias=True,
        qkv_bias=True,
    )  # fmt: skip
    ours = Block(config).double()
    theirs = nn.TransformerEncoderLayer(
        8, 2, 16, 0.0, activation, batch_first=True, norm_first=norm == "pre"
    ).double()
    layers = [
        (theirs.self_attn.out_proj, ours.attention.output),
        (theirs.linear1, ours.feed_forward[0]),
        (theirs.linear2, ours.feed_forward[2]),
        (theirs.norm1, ours.attention_norm),
        (theirs.norm2, ours.feed_forward_norm),
    ]
    pairs = [
        (theirs.self_attn.in_proj_weight, ours.attention.query_key_value.weight),
        (theirs.self_attn.in_proj_bias, ours.attention.query_key_value.bias),
        *((target.weight, source.weight) for target, source in layers),
        *((target.bias, source.bias) for target, source in layers),
    ]
    with torch.no_grad():
        for target, source in pairs:
            target.copy_(nn.init.normal_(source, std=0.3))
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    expected, actual = theirs(x, mask), ours(x)
    torch.testing.assert_close(actual, expected)
    weighting = torch.randn_like(x)
    (expected * weighting).sum().backward()
    (actual * weighting).sum().backward()
    for target, source in pairs:
        torch.testing.assert_close(source.grad, target.grad)


@EVERY_KIND
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gradients_to_later_characters_are_zero_and_to_earlier_ones_are_not(
    positions: PositionKind, norm: Norm
) -> None:
    network = small(num_layers=2, num_heads=2, positions=positions, norm=norm)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    ids = torch.randint(11, (1, 8))
    for now in (0, 4, 7):
        embedded = network.embedding(ids).detach().requires_grad_()
        network.embedding.forward = lambda _, embedded=embedded: embedded  # type: ignore[method-assign]
        network(ids)[0, now].square().sum().backward()
        assert embedded.grad is not None
        reach = embedded.grad[0].abs().sum(-1)
        assert not reach[now + 1 :].any(), "a position looks into the future"
        assert bool((reach[: now + 1] > 0).all()), "a position does not see its past"


def test_future_characters_do_not_change_past_logits(transformer: CausalTransformer) -> None:
    ids = torch.randint(11, (1, 8))
    for now in range(7):
        changed = ids.clone()
        changed[0, now + 1 :] = (changed[0, now + 1 :] + 1) % 11
        assert torch.equal(transformer(ids)[0, : now + 1], transformer(changed)[0, : now + 1])


@EVERY_KIND
def test_the_order_of_the_past_matters(positions: PositionKind) -> None:
    # Without positions, a second layer could infer the order from the causal triangle.
    network = small(num_heads=2, positions=positions)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    one, other = network(torch.tensor([[1, 2, 3, 4]])), network(torch.tensor([[2, 1, 3, 4]]))
    assert not torch.allclose(one[0, -1], other[0, -1], atol=1e-3)


def test_ids_under_padding_change_no_real_logit_and_no_gradient(
    transformer: CausalTransformer,
) -> None:
    real = torch.tensor([[True] * 8, [True] * 3 + [False] * 5])
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 10, 10, 10, 10, 0]])
    results = []
    for padding in (10, 3):
        logits = transformer(ids.where(real | (ids == 0), padding))[real]
        gradients = torch.autograd.grad(logits.square().sum(), list(transformer.parameters()))
        results.append([logits, *gradients])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_attention_mask_hides_padding_on_either_side(
    transformer: CausalTransformer, side: str
) -> None:
    ids = torch.tensor([[5, 6, 7, 1, 2]])
    mask = torch.tensor([[False, False, True, True, True]])
    if side == "right":
        mask = mask.flip(1)
    logits = transformer(ids, mask)[mask]
    other = transformer(torch.where(mask, ids, 9), mask)[mask]
    assert torch.equal(logits, other)
    # Masked positions are embedded as the padding symbol, whose embedding has no effect either.
    with torch.no_grad():
        transformer.embedding.weight[10] += 1.0
    assert torch.equal(logits, transformer(ids, mask)[mask])
    # Two attention kernels, in float32.
    alone = transformer(ids[mask][None])[0]
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)


def test_a_row_of_padding_alone_gives_no_nan(transformer: CausalTransformer) -> None:
    logits = transformer(torch.full((1, 8), 10), torch.zeros(1, 8, dtype=torch.bool))
    assert bool(logits.isfinite().all())


def test_scaled_embeddings_are_multiplied_by_the_square_root_of_the_width() -> None:
    ids, options = torch.tensor([[1, 2, 3]]), {"d_model": 16, "previous_characters": 2}
    scaled, plain = (small(**options, scale_embedding=scale) for scale in (True, False))
    torch.testing.assert_close(scaled.embed(ids), 4.0 * plain.embed(ids))


def test_the_embeddings_of_the_preceding_characters_are_added_at_each_position() -> None:
    network = small(5, d_model=2, previous_characters=2, scale_embedding=False)
    tables = (network.embedding, *network.previous_embeddings)
    for distance, table in enumerate(tables):
        nn.init.zeros_(table.weight)
        # The digits of the sum tell which character is at which distance.
        table.weight.data[:, 0] = torch.arange(5.0) * 10**distance
    embedded = network.embed(torch.tensor([[1, 2, 3, 1]]))[0, :, 0].tolist()
    assert embedded == [441, 412, 123, 231]  # 4 is the padding
    # Fewer characters than tables.
    assert network.embed(torch.tensor([[1]]))[0, :, 0].tolist() == [441]


class Before(NamedTuple):
    """A `Past` that knows ids alone."""

    recent: Tensor
    positions: slice = slice(1)
    mask: None = None

    def extend(self, layer: int, keys_values: Tensor) -> Tensor:
        return keys_values


def test_the_preceding_characters_of_a_past_are_embedded() -> None:
    network, ids = small(5, previous_characters=2), torch.tensor([[3, 1, 2, 0, 1]])
    whole = network.embed(ids)
    # Those of the past that are too far away have no effect.
    for start in (2, 3, 4):
        torch.testing.assert_close(network.embed(ids[:, start:], Before(ids)), whole[:, start:])


def test_each_layer_extends_a_past_by_its_own_keys_and_values(
    transformer: CausalTransformer,
) -> None:
    seen: list[tuple[int, Tensor]] = []

    class Remembering(Before):
        def extend(self, layer: int, keys_values: Tensor) -> Tensor:
            seen.append((layer, keys_values))
            return keys_values

    transformer(torch.tensor([[3]]), past=Remembering(torch.tensor([[1, 2, 5, 4, 3]])))
    assert [layer for layer, _ in seen] == [0, 1]
    assert {tuple(new.shape) for _, new in seen} == {(2, 1, 2, 1, 4)}
    assert not torch.equal(seen[0][1], seen[1][1])


def test_with_zero_init_every_block_starts_as_the_identity_and_a_tied_head_is_not_zero() -> None:
    network, x = small(tied_head=True, zero_init=True), torch.randn(1, 3, 8)
    assert torch.equal(network.blocks[0](x), x)
    assert network.head.weight is network.embedding.weight
    assert network.head.weight.any()


@EVERY_KIND
def test_a_state_holds_positions_only_if_they_are_learned(positions: PositionKind) -> None:
    state = small(positions=positions).state_dict()
    assert ("learned_positions" in state) is (positions == "learned")
    assert "position_table" not in state


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout"])
def test_dropout_acts_in_training_and_never_in_evaluation(kind: str) -> None:
    network, ids = small(**{kind: 0.5}), torch.tensor([[1, 2, 3]])
    assert not torch.equal(network.train()(ids), network.train()(ids))
    assert torch.equal(network.eval()(ids), network.eval()(ids))


@pytest.mark.parametrize("zero_init", [True, False])
def test_the_initial_loss_is_that_of_a_uniform_guess(zero_init: bool) -> None:
    network = small(66, d_model=160, previous_characters=4, zero_init=zero_init)
    logits = network(torch.randint(66, (64, 8))).flatten(0, 1)
    loss = nn.functional.cross_entropy(logits, torch.randint(66, (512,))).item()
    assert loss == pytest.approx(math.log(66), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 9}, "d_model is 9: sinusoidal positions need an even number"),
        ({"positions": "rotary", "d_model": 6, "num_heads": 2}, "d_model / num_heads is 3: rotary"),
    ],
)
def test_an_odd_width_is_refused_by_the_positions_that_need_pairs(
    options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        small(**options)


def test_more_characters_than_the_context_are_refused(transformer: CausalTransformer) -> None:
    with pytest.raises(UserError, match="9 characters are more than the context_length, 8"):
        transformer(torch.zeros(1, 9, dtype=torch.long))


@pytest.mark.parametrize("shape", [(5,), (), (1, 2, 3)])
def test_ids_and_masks_with_other_axes_are_refused(
    transformer: CausalTransformer, shape: tuple[int, ...]
) -> None:
    message = re.escape(f"has shape {shape}: expected [batch, time]")
    with pytest.raises(UserError, match=f"^ids {message}$"):
        transformer(torch.zeros(shape, dtype=torch.long))
    with pytest.raises(UserError, match=f"^attention_mask {message}$"):
        transformer(torch.zeros(1, 5, dtype=torch.long), torch.ones(shape, dtype=torch.bool))
