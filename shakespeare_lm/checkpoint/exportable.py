"""Which models a closed form, such as a page, can hold: an option, value or layer that it was not
written for is refused by name.
"""

from collections.abc import Collection

import torch
from torch import nn

from shakespeare_lm.checkpoint.reading import ADDED_OPTIONS, Checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.memory_network import MemoryConfig, MemoryNetwork
from shakespeare_lm.methods.networks import NETWORK_OPTIONS, build_network
from shakespeare_lm.methods.ngram_memory import NGramMemory
from shakespeare_lm.model.attention import CausalSelfAttention
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.feed_forward import FeedForward
from shakespeare_lm.model.initialisation import ResidualProjection
from shakespeare_lm.model.transformer import Block, CausalTransformer

# What the page's JavaScript and the Hugging Face file were both written for: None is any value.
KNOWN: dict[str, Collection[object] | None] = {
    "network": ("transformer", "bigram"),
    "positions": ("sinusoidal", "learned", "rotary"),
    "norm": ("pre", "post"),
    "activation": ("gelu", "relu"),
    **dict.fromkeys(
        ("context_length", "num_layers", "num_heads", "d_model", "d_feedforward", "bias",
         "qkv_bias", "tied_head", "scale_embedding", "previous_characters", "zero_init",
         "dropout", "attention_dropout")
    ),
}  # fmt: skip
_LAYERS = {
    CausalTransformer, BigramTable, Block, CausalSelfAttention, FeedForward, ResidualProjection,
    nn.Linear, nn.Embedding, nn.LayerNorm, nn.GELU, nn.ReLU, nn.Identity, nn.ModuleList,
}  # fmt: skip
_MEMORY_LAYERS = {MemoryNetwork, NGramMemory}


def check_known(checkpoint: Checkpoint, form: str, with_memory: bool = False) -> None:
    """Raise a `UserError` that names the first option, with its value, or layer that a form, such
    as "a page", was not written for. `with_memory`: it was written for an n-gram memory, too.

    An option missing from `KNOWN` must have the value of checkpoints older than the option.
    """
    use = "complete, score, evaluate and export --to safetensors hold every model"
    known = KNOWN | dict.fromkeys(MemoryConfig.ADDED) if with_memory else KNOWN
    for name in NETWORK_OPTIONS:
        value, choices = getattr(checkpoint.config, name), known.get(name, ())
        if choices is None or value in choices or value == ADDED_OPTIONS.get(name, ...):
            continue
        expected = ", ".join(map(str, choices)) or ADDED_OPTIONS.get(name, "nothing else")
        raise UserError(f"{name} is {value}: {form} cannot hold that, only {expected}; {use}")
    layers = _LAYERS | _MEMORY_LAYERS if with_memory else _LAYERS
    vocab_size = checkpoint.tokenizer.vocab_size
    with torch.device("meta"):  # layers without memory
        network = build_network(vocab_size, checkpoint.config, initialise=False)
    for layer in network.modules():
        if type(layer) not in layers:
            raise UserError(f"the layer {type(layer).__name__}: {form} does not know it; {use}")
