"""Activations recorded and replaced by name."""

import pytest
import torch
from torch import nn

from shakespeare_lm import Completer, UserError, patched, run_with_cache
from shakespeare_lm.data.tokenizer import CharTokenizer
from tests.completion.conftest import NETWORKS, VOCABULARY, random_network

IDS = torch.randint(10, (2, 8), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", NETWORKS)
def test_replacing_all_activations_by_the_recorded_ones_changes_no_bit(kind: str) -> None:
    network = random_network(**NETWORKS[kind])
    ids = IDS[:, : network.config.context_length]
    logits, cache = run_with_cache(network, ids)
    assert torch.equal(logits, network(ids))
    assert cache.keys() > set(run_with_cache(network, ids, list(cache)[:3])[1])
    for patches in (cache, dict.fromkeys(cache, torch.clone)):
        with patched(network, patches):
            assert torch.equal(network(ids), logits)


def test_recorded_activations_are_those_that_hooks_and_formulas_give() -> None:
    network, by_hand = random_network(memory_order=3), {}
    _, cache = run_with_cache(network, IDS)
    for name, module in network.named_modules():
        module.register_forward_hook(lambda m, i, out, name=name: by_hand.update({name: out}))
    network(IDS)
    heads = {f"base.blocks.{b}.attention.heads.{h}" for b in (0, 1) for h in (0, 1)}
    assert cache.keys() == heads | by_hand.keys() - {"", "ngrams"}
    for name in cache.keys() - heads:
        assert torch.equal(cache[name], by_hand[name]), name
    mixed = torch.cat([cache[f"base.blocks.1.attention.heads.{head}"] for head in (0, 1)], dim=-1)
    output = network.blocks[1].attention.output
    torch.testing.assert_close(output(mixed), cache["base.blocks.1.attention"])


def test_to_knock_out_a_head_is_to_zero_its_columns_of_the_output_layer(transformer) -> None:
    logits = transformer(IDS)
    with patched(transformer, {"blocks.0.attention.heads.1": 0.0}):
        knocked_out = transformer(IDS)
    transformer.blocks[0].attention.output.weight.data[:, 4:] = 0
    assert torch.equal(transformer(IDS), knocked_out)
    assert not torch.equal(logits, knocked_out)


def test_a_residual_stream_that_is_replaced_decides_all_that_follows(transformer) -> None:
    _, other = run_with_cache(transformer, IDS.flip(1))
    with patched(transformer, {"blocks.1": other["blocks.1"]}):
        assert torch.equal(transformer(IDS), transformer(IDS.flip(1)))
    with patched(transformer, {"blocks.0": lambda stream: 2 * stream}):
        doubled = run_with_cache(transformer, IDS, ["blocks.0"])[1]["blocks.0"]
    torch.testing.assert_close(doubled, 2 * run_with_cache(transformer, IDS)[1]["blocks.0"])


def test_a_completer_reads_a_text_and_its_completions_are_patched(completer) -> None:
    logits, _ = run_with_cache(completer, "abc\n")
    assert torch.equal(logits, completer.network(torch.tensor([[9, 8, 7, 0]])))
    before = completer.complete("abc", 20, greedy=True)
    with patched(completer, {"blocks.0.attention.heads.0": 0.0, "blocks.1.attention": 0.0}):
        cached = completer.complete("abc", 20, greedy=True)
        assert cached == completer.complete("abc", 20, greedy=True, cache=False) != before
    assert completer.complete("abc", 20, greedy=True) == before


def test_modes_and_hooks_are_restored_after_an_error_and_gradients_flow() -> None:
    transformer = random_network(dropout=0.5, previous_characters=0).train()
    assert torch.equal(run_with_cache(transformer, IDS)[0], run_with_cache(transformer, IDS)[0])
    with pytest.raises(ZeroDivisionError), patched(transformer, {"head": lambda x: 1 / 0}):
        run_with_cache(transformer, IDS)
    assert transformer.training
    for module in transformer.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    _, cache = run_with_cache(transformer, IDS)
    nn.Linear(8, 2)(cache["blocks.0"]).sum().backward()  # a probe is trained
    with patched(transformer, {"blocks.0.attention.heads.0": 0.0}):
        transformer(IDS).sum().backward()
    assert transformer.blocks[0].attention.output.weight.grad[:, :4].count_nonzero() == 0
    assert transformer.blocks[0].attention.output.weight.grad[:, 4:].all()


def test_several_tensors_of_a_module_can_be_recorded_but_not_patched() -> None:
    network = random_network(network="bigram")
    network.add_module("gru", nn.GRU(11, 11))
    network.hidden = lambda x, *_: network.gru(x)[0]  # type: ignore[method-assign]
    assert len(run_with_cache(network, IDS)[1]["gru"]) == 2
    expected = r"^gru is a tuple: it can be recorded, but not patched$"
    with pytest.raises(UserError, match=expected), patched(network, {"gru": 0.0}):
        network(IDS)


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        ({"blocks.2": 0.0}, r"activation is 'blocks.2': choose from: embedding, .*, final_norm, h"),
        ({"blocks": 0.0}, "activation is 'blocks': choose from"),
        ({"head": torch.ones(3)}, r"the patch for head is of shape \(3,\): expected a number, or"),
        ({"head": lambda x: None}, r"head is None: .* that can be broadcast to \(2, 8, 11\)$"),
    ],
)
def test_a_wrong_patch_says_what_is_accepted(transformer, patches, message) -> None:
    with pytest.raises(UserError, match=message), patched(transformer, patches):
        transformer(IDS)


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch.compile's own
def test_a_compiled_model_and_a_text_without_an_alphabet_are_refused(transformer) -> None:
    with pytest.raises(UserError, match="text is a str: a network without a tokenizer needs ids"):
        run_with_cache(transformer, "abc")
    completer = Completer(random_network(), CharTokenizer(VOCABULARY), 8, compile=True)
    compiled = torch.compile(random_network())
    transformer.blocks[0].compile()
    for model in (completer, compiled, transformer):
        with pytest.raises(UserError, match="the model is compiled, which hides its activations"):
            run_with_cache(model, IDS)
