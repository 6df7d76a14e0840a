"""The network: parity with references, causality, padding, published sizes."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.network.attention import CausalSelfAttention
from shakespeare_lm.network.bigram import BigramTable
from shakespeare_lm.network.build import NETWORK_OPTIONS, build_network
from shakespeare_lm.network.positions import rotary_table, rotate
from shakespeare_lm.network.transformer import (
    Block,
    CausalTransformer,
    FeedForward,
    Norm,
    Positions,
)
from shakespeare_lm.training.module import ShakespeareLM

CONFIGS = Path(__file__).parents[2] / "configs"
SIXTY_FIVE = "".join(map(chr, range(48, 48 + 65)))


def attention_by_loops(
    attention: CausalSelfAttention, x: Tensor, rotation: Tensor | None
) -> Tensor:
    """One position and one head at a time, from the definition."""
    batch, time, d_model = x.shape
    head_dim = d_model // attention.num_heads
    projected = x @ attention.query_key_value.weight.T
    if attention.query_key_value.bias is not None:
        projected = projected + attention.query_key_value.bias
    mixed = torch.zeros_like(x)
    for row, head in product(range(batch), range(attention.num_heads)):
        columns = slice(head * head_dim, (head + 1) * head_dim)
        q, k, v = (part[:, columns] for part in projected[row].split(d_model, dim=-1))
        if rotation is not None:
            q, k = (rotate(part[None, None], rotation)[0, 0] for part in (q, k))
        for now in range(time):
            scores = torch.stack(
                [q[now] @ k[past] / math.sqrt(head_dim) for past in range(now + 1)]
            )
            mixed[row, now, columns] = scores.softmax(0) @ v[: now + 1]
    return attention.output(mixed)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_attention_equals_a_loop_over_its_definition(rotary: bool, qkv_bias: bool) -> None:
    torch.manual_seed(0)
    attention = CausalSelfAttention(8, 2, bias=True, qkv_bias=qkv_bias, dropout=0.0).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    rotation = rotary_table(5, 4).double() if rotary else None
    torch.testing.assert_close(attention(x, rotation), attention_by_loops(attention, x, rotation))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_block_equals_torchs_own_layer_in_outputs_and_gradients(
    norm: Norm, activation: str
) -> None:
    torch.manual_seed(0)
    attention = CausalSelfAttention(8, 2, bias=True, qkv_bias=True, dropout=0.0)
    ours = Block(attention, FeedForward(8, 16, activation, bias=True), norm, dropout=0.0).double()
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
    positions: Positions, norm: Norm
) -> None:
    torch.manual_seed(0)
    network = CausalTransformer(
        11, 8, num_layers=2, num_heads=2, d_model=8, positions=positions, norm=norm
    )
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
def test_the_order_of_the_past_matters(positions: Positions) -> None:
    torch.manual_seed(0)
    # One layer: a second one knows the order even without positions, from the causal triangle.
    # Nor may embeddings of the previous characters tell of it.
    network = CausalTransformer(
        11, 8, num_layers=1, num_heads=2, d_model=8, positions=positions, previous_characters=0
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    one, other = network(torch.tensor([[1, 2, 3, 4]])), network(torch.tensor([[2, 1, 3, 4]]))
    assert not torch.allclose(one[0, -1], other[0, -1], atol=1e-3)


def test_what_lies_under_padding_changes_no_real_logit_and_no_gradient(
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
    # Nor by what the padding symbol, which masked positions are embedded as, looks like.
    with torch.no_grad():
        transformer.embedding.weight[10] += 1.0
    assert torch.equal(logits, transformer(ids, mask)[mask])
    if side == "right":
        # Two attention kernels, single precision.
        torch.testing.assert_close(logits, transformer(ids)[mask], rtol=1e-4, atol=1e-4)


def test_a_row_of_padding_alone_gives_no_nan(transformer: CausalTransformer) -> None:
    logits = transformer(torch.full((1, 8), 10), torch.zeros(1, 8, dtype=torch.bool))
    assert bool(logits.isfinite().all())


def test_scaled_embeddings_are_multiplied_by_the_square_root_of_the_width() -> None:
    torch.manual_seed(0)
    scaled, plain = (
        CausalTransformer(
            9, 4, num_layers=1, num_heads=1, d_model=16, scale_embedding=scale, zero_init=False
        )
        for scale in (True, False)
    )
    plain.load_state_dict(scaled.state_dict())
    with torch.no_grad():
        plain.embedding.weight *= 4.0
        for previous in plain.previous_embeddings:
            previous.weight *= 4.0
    ids = torch.tensor([[1, 2, 3]])
    assert scaled(ids).any()
    torch.testing.assert_close(scaled(ids), plain(ids))


def test_each_position_is_told_of_the_characters_before_it() -> None:
    network = CausalTransformer(
        5, 4, num_layers=1, num_heads=1, d_model=2, previous_characters=2, scale_embedding=False
    )
    tables = (network.embedding, *network.previous_embeddings)
    for distance, table in enumerate(tables):
        nn.init.zeros_(table.weight)
        # Which character stands at which distance, readable from the sum: 1, 10 or 100 times it.
        table.weight.data[:, 0] = torch.arange(5.0) * 10**distance
    padding = 4
    embedded = network._embed(torch.tensor([[4, 4, 1, 2, 3, 1]]))[0, :, 0].tolist()
    assert embedded == [1 + 10 * padding + 100 * padding, 2 + 10 + 100 * padding, 123, 231]
    # Shorter than the distances that there are tables for.
    assert (
        network._embed(torch.tensor([[4, 4, 1]]))[0, 0, 0].item()
        == 1 + 10 * padding + 100 * padding
    )


def test_padding_on_the_left_is_what_stands_before_the_first_character(
    transformer: CausalTransformer,
) -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    mask = torch.tensor([[False, False, True, True, True]])
    changed = torch.tensor([[7, 8, 3, 4, 5]])
    assert torch.equal(transformer(ids, mask)[mask], transformer(changed, mask)[mask])


def test_with_zero_init_every_block_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    network = CausalTransformer(9, 4, num_layers=2, num_heads=1, d_model=8)
    x = torch.randn(1, 3, 8)
    assert torch.equal(network.blocks[0](x), x)
    assert not network.head.weight.any()
    tied = CausalTransformer(9, 4, num_layers=1, num_heads=1, d_model=8, tied_head=True)
    assert tied.head.weight.any()


def test_attention_in_bfloat16_is_computed_in_single_precision_on_a_cpu() -> None:
    torch.manual_seed(0)
    attention = CausalSelfAttention(8, 2, bias=False, qkv_bias=False, dropout=0.0)
    q, k, v = torch.randn(3, 1, 2, 5, 4).bfloat16()
    mixed = attention._attend(q, k, v, None)
    exact = nn.functional.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), is_causal=True
    )
    assert torch.equal(mixed, exact.bfloat16())


def test_a_tied_head_shares_the_embeddings_weights() -> None:
    network = CausalTransformer(9, 4, num_layers=1, num_heads=1, d_model=8, tied_head=True)
    assert network.head.weight is network.embedding.weight


def test_dropout_acts_in_training_and_never_in_evaluation() -> None:
    torch.manual_seed(0)
    network = CausalTransformer(
        9,
        4,
        num_layers=1,
        num_heads=1,
        d_model=8,
        zero_init=False,
        dropout=0.5,
        attention_dropout=0.5,
    )
    ids = torch.tensor([[1, 2, 3]])
    assert not torch.equal(network.train()(ids), network.train()(ids))
    assert torch.equal(network.eval()(ids), network.eval()(ids))


@pytest.mark.parametrize("zero_init", [True, False])
def test_the_initial_loss_is_that_of_guessing(zero_init: bool) -> None:
    torch.manual_seed(0)
    network = CausalTransformer(66, 64, zero_init=zero_init)
    logits = network(torch.randint(66, (8, 64))).flatten(0, 1)
    loss = nn.functional.cross_entropy(logits, torch.randint(66, (512,))).item()
    assert loss == pytest.approx(math.log(66), rel=0.05)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"d_model": 10, "num_heads": 3}, "d_model is 10 and num_heads 3"),
        ({"d_model": 9, "num_heads": 3}, "d_model is 9"),
        ({"previous_characters": -1}, "previous_characters is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"attention_dropout": 2.0}, "attention_dropout is 2.0"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"context_length": 0}, "context_length is 0"),
        ({"d_feedforward": 0}, "d_feedforward is 0"),
        ({"positions": "rotary", "d_model": 6, "num_heads": 2}, "d_model / num_heads is 3"),
    ],
)
def test_sizes_that_make_no_transformer_are_refused(sizes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CausalTransformer(**{"vocab_size": 9, "context_length": 4, **sizes})


def test_more_characters_than_the_context_are_refused(transformer: CausalTransformer) -> None:
    with pytest.raises(UserError, match="9 characters are more than the context_length, 8"):
        transformer(torch.zeros(1, 9, dtype=torch.long))


def test_a_bigram_table_sees_the_last_character_alone() -> None:
    table = BigramTable(5)
    logits = table(torch.tensor([[1, 2, 3], [4, 0, 3]]))
    assert torch.equal(logits[0, 2], logits[1, 2])
    assert torch.equal(logits[0, 0], table.table.weight[1])


def network_of(recipe: str) -> tuple[nn.Module, dict]:
    """Return the network that a YAML describes, for the 65 characters of tiny Shakespeare."""
    config = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    options = {**config["model"], "context_length": config["data"]["context_length"]}
    module = ShakespeareLM(vocabulary=SIXTY_FIVE, **options)
    return module.transformer, options


PUBLISHED = {
    "notebook": 1_586_176 + 8_448 + 8_514,  # counts the padding symbol's rows, as we do
    "script": 4_800_577,
    "little": 209_729,
    "nanogpt": 10_788_929,
    "bigram": 4_225,
    "scaled-sgd": 209_729,
}


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_every_recipe_has_its_published_number_of_parameters(recipe: str) -> None:
    network, options = network_of(recipe)
    total = sum(parameter.numel() for parameter in network.parameters())
    if recipe == "bigram":
        padding = 66 + 65
    elif recipe == "notebook":
        padding = 0
    else:
        padding = (
            2 * options["d_model"] + 1
        )  # its row in the embedding, its row and bias in the head
    assert total - padding == PUBLISHED[recipe]


def test_a_network_is_rebuilt_from_plain_hyperparameters() -> None:
    options = dict(ShakespeareLM(vocabulary="abc", num_layers=1).hparams)
    assert set(NETWORK_OPTIONS) <= set(options)
    vocab_size = CharTokenizer("abc").vocab_size
    assert build_network(options)(torch.tensor([[0, 1]])).shape == (1, 2, vocab_size)
    assert isinstance(build_network({**options, "network": "bigram"}), BigramTable)
