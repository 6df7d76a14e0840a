"""A checkpoint -> a folder that Hugging Face's transformers load: with their stock classes where
the network is GPT-2 by another name; else with a modelling file of its own, which
`trust_remote_code=True` allows to run.
"""

import json
import math
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from safetensors.torch import save
from torch import Tensor

from shakespeare_lm.checkpoint.exportable import KNOWN, check_known
from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.errors import printable
from shakespeare_lm.methods.networks import NetworkOptions
from shakespeare_lm.model.positions import sinusoidal_table

PADDING = "<|padding|>"
_LISTED = 200  # characters in an error
_MODELLING = "modeling_shakespeare_lm"
_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",  # transformers 4 and 5 know it
    "pad_token": PADDING, "clean_up_tokenization_spaces": False,
    "split_special_tokens": True,  # a text that spells the padding symbol has its characters
}  # fmt: skip
_GPT2_NAMES = {
    "attention_norm": "ln_1", "feed_forward_norm": "ln_2",
    "attention.query_key_value": "attn.c_attn", "attention.output": "attn.c_proj",
    "feed_forward.0": "mlp.c_fc", "feed_forward.2": "mlp.c_proj",
}  # fmt: skip

Facts = Sequence[tuple[str, str]]


def is_gpt2(config: NetworkOptions) -> bool:
    """Return whether transformers' own GPT-2 computes the same."""
    return (
        config.network == "transformer"
        and config.positions != "rotary"
        and config.norm == "pre"
        and not config.previous_characters
        and not config.bias  # its head has none
    )


def huggingface_files(checkpoint: Checkpoint, card: str) -> dict[str, bytes]:
    """Return the files of the folder; `card` becomes its README.md. A `UserError` names an option
    that the modelling file does not know.
    """
    check_known(checkpoint, "Hugging Face's form")
    tokenizer, context_length = checkpoint.tokenizer, checkpoint.config.context_length
    generation = {
        "pad_token_id": tokenizer.padding_id, "suppress_tokens": [tokenizer.padding_id],
        "do_sample": True, "temperature": SamplingOptions.temperature, "top_k": 0,
    }  # fmt: skip
    extra = {}
    if is_gpt2(checkpoint.config):
        settings = gpt2_config(checkpoint.config, tokenizer.vocab_size)
        weights = gpt2_weights(checkpoint)
    else:
        settings = _own_config(checkpoint.config, tokenizer.vocab_size)
        # Clones, because safetensors refuses tensors that share their memory, as a tied head does.
        weights = {name: tensor.float().clone() for name, tensor in checkpoint.weights.items()}
        generation["use_cache"] = False
        source = files("shakespeare_lm.export").joinpath(f"{_MODELLING}.py")
        extra = {f"{_MODELLING}.py": source.read_bytes()}
    return {
        "README.md": card.encode(errors="backslashreplace"),  # of a folder's name
        "config.json": _json(settings),
        "generation_config.json": _json(generation),
        "model.safetensors": save(weights, {"format": "pt"}),
        "tokenizer.json": _json(_tokenizer(checkpoint)),
        "tokenizer_config.json": _json({**_TOKENIZER_CONFIG, "model_max_length": context_length}),
        **extra,
    }


def gpt2_config(config: NetworkOptions, vocab_size: int) -> dict[str, Any]:
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
    """Return the weights by GPT-2's names; its linear layers are transposed and have biases."""
    config, weights = checkpoint.config, checkpoint.weights
    scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
    table = weights.get("learned_positions")
    if table is None:
        table = sinusoidal_table(config.context_length, config.d_model)
    found = {
        "transformer.wte.weight": weights["embedding.weight"] * scale,
        "transformer.wpe.weight": table,
        "lm_head.weight": weights["head.weight"],
    }
    modules = {"final_norm": "ln_f"}
    for layer in range(config.num_layers):
        for source, target in _GPT2_NAMES.items():
            modules[f"blocks.{layer}.{source}"] = f"h.{layer}.{target}"
    for source, target in modules.items():
        weight = weights[f"{source}.weight"]
        bias = weights.get(f"{source}.bias", weight.new_zeros(len(weight)))
        found[f"transformer.{target}.weight"] = weight.T if weight.ndim == 2 else weight
        found[f"transformer.{target}.bias"] = bias
    return {name: tensor.float().contiguous().clone() for name, tensor in found.items()}


def _own_config(config: NetworkOptions, vocab_size: int) -> dict[str, Any]:
    classes = {
        "AutoConfig": f"{_MODELLING}.ShakespeareLMConfig",
        "AutoModelForCausalLM": f"{_MODELLING}.ShakespeareLMForCausalLM",
    }
    return {
        **{name: getattr(config, name) for name in KNOWN},
        "d_feedforward": config.feedforward_width, "architectures": ["ShakespeareLMForCausalLM"],
        "model_type": "shakespeare_lm", "dtype": "float32", "auto_map": classes,
        "vocab_size": vocab_size, "pad_token_id": vocab_size - 1, "tie_word_embeddings": False,
    }  # fmt: skip


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the tokenizer.json: byte-pair encoding without merges, so that each character is a
    token. An unknown one is an error, whose message quotes `unk_token`.
    """
    padding_id, vocabulary = checkpoint.tokenizer.padding_id, checkpoint.tokenizer.vocabulary
    ids = {character: number for number, character in enumerate(vocabulary)}
    known = repr(vocabulary[:_LISTED]) + "..." * (len(vocabulary) > _LISTED)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "pre_tokenizer": None, "post_processor": None,
        "added_tokens": [{"id": padding_id, "content": PADDING, "special": True, **flags}],
        # Else decoding would put spaces between them.
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE", "vocab": {**ids, PADDING: padding_id}, "merges": [],
            "unk_token": f"any character but {known}",
        },
    }  # fmt: skip


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def model_card(title: str, facts: Facts, losses: Facts, measured_on: str, use: str) -> str:
    """Return the README.md of the folder: code that loads it (`use`), facts about the model, and
    its loss next to those of others on the same text, if it was measured.
    """
    environment = Environment(
        loader=PackageLoader("shakespeare_lm", "export"), autoescape=False,
        trim_blocks=True, keep_trailing_newline=True, finalize=printable,
    )  # fmt: skip
    environment.filters["plain"] = _plain
    return environment.get_template("model_card.md").render(
        title=title, facts=facts, losses=losses, measured_on=measured_on, use=use
    )


def _plain(text: str) -> str:
    """Escape what Markdown and HTML would read as markup."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>()#|!])", r"\\\1", one_line)
