"""A checkpoint -> a folder that Hugging Face's transformers load.

Enters: a checkpoint. Leaves: the folder's files by name. Where a network is GPT-2 by another name,
stock classes load it; else the folder has a modelling file of its own, which
`trust_remote_code=True` allows to run.
"""

import json
import math
from importlib.resources import files
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.config import NETWORK_OPTIONS, NetworkConfig
from shakespeare_lm.model.positions import sinusoidal_table

PADDING = "<|padding|>"
_MODELLING = "modeling_shakespeare_lm"


def is_gpt2(config: NetworkConfig) -> bool:
    """Return whether transformers' own GPT-2 computes the same."""
    return (
        config.network == "transformer"
        and config.positions != "rotary"
        and config.norm == "pre"
        and not config.previous_characters
        and not config.bias  # its head has none
    )


def check_fits(config: NetworkConfig, form: str) -> None:
    """Refuse an n-gram memory, which neither Hugging Face's form nor ONNX can hold.

    Raises:
        UserError: if the network has one.
    """
    if config.memory_order:
        raise UserError(
            f"memory_order is {config.memory_order}: {form} cannot hold an n-gram memory; export "
            "to safetensors, or train without a memory"
        )


def huggingface_files(checkpoint: Checkpoint, card: str) -> dict[str, bytes]:
    """Return the files of the folder.

    Args:
        checkpoint: of the model.
        card: README.md, the model card.

    Raises:
        UserError: if transformers could not run it.
    """
    config = checkpoint.config
    check_fits(config, "Hugging Face's form")
    vocab_size = checkpoint.tokenizer.vocab_size
    if is_gpt2(config):
        settings, weights = gpt2_config(config, vocab_size), gpt2_weights(checkpoint)
        extra = {}
    else:
        settings, weights = _own_config(config, vocab_size), _own_weights(checkpoint)
        source = files("shakespeare_lm.export").joinpath(f"{_MODELLING}.py").read_bytes()
        extra = {f"{_MODELLING}.py": source}
    padding_id = checkpoint.tokenizer.padding_id
    generation = {"pad_token_id": padding_id, "suppress_tokens": [padding_id]}
    if not is_gpt2(config):
        generation["use_cache"] = False
    return {
        "README.md": card.encode(),
        "config.json": _json(settings),
        "generation_config.json": _json(generation),
        "model.safetensors": save(weights, {"format": "pt"}),
        "tokenizer.json": _json(_tokenizer(checkpoint)),
        "tokenizer_config.json": _json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",  # transformers 4 and 5 know it
                "pad_token": PADDING,
                "model_max_length": config.context_length,
                "clean_up_tokenization_spaces": False,
            }
        ),
        **extra,
    }


def gpt2_config(config: NetworkConfig, vocab_size: int) -> dict[str, Any]:
    """Return the config.json of a stock GPT-2."""
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "dtype": "float32",
        "vocab_size": vocab_size, "n_positions": config.context_length, "n_embd": config.d_model,
        "n_layer": config.num_layers, "n_head": config.num_heads,
        "n_inner": config.feedforward_width, "activation_function": config.activation,
        "embd_pdrop": config.dropout, "resid_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout, "tie_word_embeddings": False,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": vocab_size - 1,
    }  # fmt: skip


def gpt2_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights by GPT-2's names: its linear layers are transposed, and have biases."""
    config, weights = checkpoint.config, checkpoint.weights
    scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
    table = weights.get("learned_positions")
    if table is None:
        table = sinusoidal_table(config.context_length, config.d_model)
    found = {
        "transformer.wte.weight": weights["embedding.weight"] * scale,
        "transformer.wpe.weight": table,
        "lm_head.weight": weights["head.weight"],
        **_norm(weights, "final_norm", "transformer.ln_f"),
    }
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        found |= _norm(weights, f"{ours}.attention_norm", f"{theirs}.ln_1")
        found |= _norm(weights, f"{ours}.feed_forward_norm", f"{theirs}.ln_2")
        found |= _linear(weights, f"{ours}.attention.query_key_value", f"{theirs}.attn.c_attn")
        found |= _linear(weights, f"{ours}.attention.output", f"{theirs}.attn.c_proj")
        found |= _linear(weights, f"{ours}.feed_forward.0", f"{theirs}.mlp.c_fc")
        found |= _linear(weights, f"{ours}.feed_forward.2", f"{theirs}.mlp.c_proj")
    return {name: tensor.float().contiguous().clone() for name, tensor in found.items()}


def _norm(weights: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    weight = weights[f"{ours}.weight"]
    bias = weights.get(f"{ours}.bias", torch.zeros_like(weight))
    return {f"{theirs}.weight": weight, f"{theirs}.bias": bias}


def _linear(weights: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    weight = weights[f"{ours}.weight"]
    bias = weights.get(f"{ours}.bias", weight.new_zeros(len(weight)))
    return {f"{theirs}.weight": weight.T, f"{theirs}.bias": bias}


def _own_config(config: NetworkConfig, vocab_size: int) -> dict[str, Any]:
    options = {name: getattr(config, name) for name in NETWORK_OPTIONS}
    for name in ("memory_order", "memory_share", "zero_init"):
        del options[name]
    return {
        **options,
        "d_feedforward": config.feedforward_width,
        "architectures": ["ShakespeareLMForCausalLM"],
        "model_type": "shakespeare_lm",
        "dtype": "float32",
        "auto_map": {
            "AutoConfig": f"{_MODELLING}.ShakespeareLMConfig",
            "AutoModelForCausalLM": f"{_MODELLING}.ShakespeareLMForCausalLM",
        },
        "vocab_size": vocab_size,
        "pad_token_id": vocab_size - 1,
        "tie_word_embeddings": False,
    }


def _own_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    # Clones, because safetensors refuses tensors that share their memory, as a tied head does.
    return {name: tensor.float().clone() for name, tensor in checkpoint.weights.items()}


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the tokenizer.json: each character is a word; unknown ones are an error."""
    vocabulary = checkpoint.tokenizer.vocabulary
    padding_id = checkpoint.tokenizer.padding_id
    ids = {character: number for number, character in enumerate(vocabulary)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "post_processor": None,
        "added_tokens": [{"id": padding_id, "content": PADDING, "special": True, **flags}],
        # An empty pattern cuts between all characters, line ends among them.
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": False
        },
        # Else decoding would put spaces between them.
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {**ids, PADDING: padding_id}, "unk_token": "<unk>"},
    }  # fmt: skip


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
