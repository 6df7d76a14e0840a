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


def small(vocab_size: int = 9, **options: object) -> CausalTransformer:
    """Return a transformer with one layer of one head, unless the options say otherwise."""
    torch.manual_seed(0)
    sizes = {"context_length": 4, "num_layers": 1, "num_heads": 1, "d_model": 8}
    more = {"previous_characters": 4}
    return CausalTransformer(vocab_size, NetworkConfig(**{**sizes, **more, **options}))


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
    pairs = [
        (theirs.self_attn.in_proj_weight, ours.attention.query_key_value.weight),
        (theirs.self_attn.in_proj_bias, ours.attention.query_key_value.bias),
        (theirs.self_attn.out_proj.weight, ours.attention.output.weight),
        (theirs.self_attn.out_proj.bias, ours.attention.output.bias),
        (theirs.linear1.weight, ours.feed_forward[0].weight),
        (theirs.linear1.bias, ours.feed_forward[0].bias),
        (theirs.linear2.weight, ours.feed_forward[2].weight),
        (theirs.linear2.bias, ours.feed_forward[2].bias),
        (theirs.norm1.weight, ours.attention_norm.weight),
        (theirs.norm1.bias, ours.attention_norm.bias),
        (theirs.norm2.weight, ours.feed_forward_norm.weight),
        (theirs.norm2.bias, ours.feed_forward_norm.bias),
    ]
    with torch.no_grad():
        for target, source in pairs:
            nn.init.normal_(source, std=0.3)
            target.copy_(source)
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    expected, actual = theirs(x, mask), ours(x)
    torch.testing.assert_close(actual, expected)
    weighting = torch.randn_like(x)
    (expected * weighting).sum().backward()
    (actual * weighting).sum().backward()
    for target, source in pairs:
        torch.testing.assert_close(source.grad, target.grad)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gradients_to_later_characters_are_zero_and_to_earlier_ones_are_not(
    positions: PositionKind, norm: Norm
) -> None:
    network = small(11, context_length=8, num_layers=2, num_heads=2, positions=positions, norm=norm)
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


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_the_order_of_the_past_matters(positions: PositionKind) -> None:
    # Without positions, a second layer could infer the order from the causal triangle, and the
    # embeddings of the preceding characters would depend on it.
    network = small(11, num_heads=2, positions=positions, previous_characters=0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    one, other = network(torch.tensor([[1, 2, 3, 4]])), network(torch.tensor([[2, 1, 3, 4]]))
    assert not torch.allclose(one[0, -1], other[0, -1], atol=1e-3)


def test_ids_under_padding_change_no_real_logit_and_no_gradient(
    transformer: CausalTransformer,
) -> None:
    results = []
    for padding in (10, 3):
        ids = torch.tensor(
            [[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, padding, padding, padding, padding, 0]]
        )
        real = torch.tensor([[True] * 8, [True] * 3 + [False] * 5])
        transformer.zero_grad()
        logits = transformer(ids)[real]
        logits.square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in transformer.parameters()]
        results.append([logits.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


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
    scaled, plain = (
        small(d_model=16, scale_embedding=scale, zero_init=False) for scale in (True, False)
    )
    plain.load_state_dict(scaled.state_dict())
    with torch.no_grad():
        plain.embedding.weight *= 4.0
        for previous in plain.previous_embeddings:
            previous.weight *= 4.0
    ids = torch.tensor([[1, 2, 3]])
    assert scaled(ids).any()
    torch.testing.assert_close(scaled(ids), plain(ids))


def test_the_embeddings_of_the_preceding_characters_are_added_at_each_position() -> None:
    network = small(5, d_model=2, previous_characters=2, scale_embedding=False)
    tables = (network.embedding, *network.previous_embeddings)
    for distance, table in enumerate(tables):
        nn.init.zeros_(table.weight)
        # The digits of the sum tell which character is at which distance.
        table.weight.data[:, 0] = torch.arange(5.0) * 10**distance
    padding = 4
    embedded = network.embed(torch.tensor([[1, 2, 3, 1]]))[0, :, 0].tolist()
    assert embedded == [1 + 10 * padding + 100 * padding, 2 + 10 + 100 * padding, 123, 231]
    # Fewer characters than tables.
    alone = network.embed(torch.tensor([[1]]))[0, :, 0].tolist()
    assert alone == [1 + 10 * padding + 100 * padding]


def test_the_preceding_characters_of_a_past_are_embedded() -> None:
    network = small(5, previous_characters=2)
    ids = torch.tensor([[3, 1, 2, 0, 1]])
    whole = network.embed(ids)
    # Those of the past that are too far away have no effect.
    for start in (2, 3, 4):
        past = Before(ids)
        torch.testing.assert_close(network.embed(ids[:, start:], past), whole[:, start:])


class Before(NamedTuple):
    """A `Past` that knows ids alone."""

    recent: Tensor
    positions: slice = slice(1)
    mask: None = None

    def extend(self, layer: int, keys_values: Tensor) -> Tensor:
        return keys_values


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


def test_ids_under_padding_on_the_left_are_not_embedded_as_preceding_characters(
    transformer: CausalTransformer,
) -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    mask = torch.tensor([[False, False, True, True, True]])
    changed = torch.tensor([[7, 8, 3, 4, 5]])
    assert torch.equal(transformer(ids, mask)[mask], transformer(changed, mask)[mask])


def test_with_zero_init_every_block_starts_as_the_identity() -> None:
    network = small(num_layers=2, zero_init=True)
    x = torch.randn(1, 3, 8)
    assert torch.equal(network.blocks[0](x), x)
    assert not network.head.weight.any()
    assert small(tied_head=True, zero_init=True).head.weight.any()


def test_a_tied_head_shares_the_weights_of_the_embedding() -> None:
    network = small(tied_head=True)
    assert network.head.weight is network.embedding.weight


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_a_state_holds_positions_only_if_they_are_learned(positions: PositionKind) -> None:
    state = small(positions=positions).state_dict()
    assert ("learned_positions" in state) is (positions == "learned")
    assert "position_table" not in state


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_biases_are_where_the_options_ask_for_them(bias: bool, qkv_bias: bool) -> None:
    names = small(bias=bias, qkv_bias=qkv_bias).state_dict()
    biases = {name.removesuffix(".bias") for name in names if name.endswith(".bias")}
    qkv = {name for name in biases if name.endswith("query_key_value")}
    assert bool(qkv) is qkv_bias
    # Of the block's two norms and three other linear layers, the final norm, and the head.
    assert len(biases - qkv) == (7 if bias else 0)


def test_dropout_acts_in_training_and_never_in_evaluation() -> None:
    network = small(zero_init=False, dropout=0.5, attention_dropout=0.5)
    ids = torch.tensor([[1, 2, 3]])
    assert not torch.equal(network.train()(ids), network.train()(ids))
    assert torch.equal(network.eval()(ids), network.eval()(ids))


@pytest.mark.parametrize("zero_init", [True, False])
def test_the_initial_loss_is_that_of_a_uniform_guess(zero_init: bool) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(context_length=64, previous_characters=4, zero_init=zero_init)
    network = CausalTransformer(66, config)
    logits = network(torch.randint(66, (8, 64))).flatten(0, 1)
    loss = nn.functional.cross_entropy(logits, torch.randint(66, (512,))).item()
    assert loss == pytest.approx(math.log(66), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 9, "num_heads": 3}, "d_model is 9: sinusoidal positions need an even number"),
        (
            {"positions": "rotary", "d_model": 6, "num_heads": 2},
            "d_model / num_heads is 3: rotary positions need an even number",
        ),
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
