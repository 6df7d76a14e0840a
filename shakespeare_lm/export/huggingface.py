"""A checkpoint -> a folder that Hugging Face's transformers load: with their stock classes where
the network is GPT-2 or GPT-NeoX by another name; else with a modelling file of its own, which
`trust_remote_code=True` allows to run.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal, cast

import torch
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
    "blocks.": "transformer.h.", "final_norm": "transformer.ln_f", "embedding": "transformer.wte",
    "learned_positions": "transformer.wpe.weight", "head.": "lm_head.",
    "attention_norm": "ln_1", "feed_forward_norm": "ln_2",
    "attention.query_key_value": "attn.c_attn", "attention.output": "attn.c_proj",
    "feed_forward.0": "mlp.c_fc", "feed_forward.2": "mlp.c_proj",
}  # fmt: skip
_NEOX_NAMES = {
    "blocks.": "gpt_neox.layers.", "final_norm": "gpt_neox.final_layer_norm",
    "embedding": "gpt_neox.embed_in", "head.": "embed_out.", "attention.output": "attention.dense",
    "attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.0": "mlp.dense_h_to_4h", "feed_forward.2": "mlp.dense_4h_to_h",
}  # fmt: skip
_NORM_EPSILON = 1e-5  # of layer norms, here and there
_FOLDED = 1e-5  # of logits: what folding a head's bias may change by rounding

Facts = Sequence[tuple[str, str]]


def stock_model(checkpoint: Checkpoint) -> Literal["gpt2", "gpt_neox"] | None:
    """Return which of transformers' own models computes the same, if one does."""
    config = checkpoint.config
    if config.network == "bigram":
        return "gpt_neox"
    if config.norm != "pre" or config.previous_characters or _final_bias(checkpoint) is None:
        return None
    return "gpt_neox" if config.positions == "rotary" else "gpt2"


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
    extra, stock = {}, stock_model(checkpoint)
    if stock == "gpt2":
        settings, weights = gpt2_config(checkpoint), gpt2_weights(checkpoint)
    elif stock == "gpt_neox":
        settings, weights = _neox_config(checkpoint), _neox_weights(checkpoint)
    else:
        settings, weights = _own_config(checkpoint.config), checkpoint.weights
        source = files("shakespeare_lm.export").joinpath(f"{_MODELLING}.py")
        extra = {f"{_MODELLING}.py": source.read_bytes()}
    settings |= {
        "dtype": "float32", "vocab_size": tokenizer.vocab_size, "tie_word_embeddings": False,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": tokenizer.padding_id,
    }  # fmt: skip
    # Clones, because safetensors refuses tensors that share their memory, as a tied head does.
    weights = {name: tensor.float().contiguous().clone() for name, tensor in weights.items()}
    return {
        "README.md": card.encode(errors="backslashreplace"),  # of a folder's name
        "config.json": _json(settings),
        "generation_config.json": _json(generation),
        "model.safetensors": save(weights, {"format": "pt"}),
        "tokenizer.json": _json(_tokenizer(checkpoint)),
        "tokenizer_config.json": _json({**_TOKENIZER_CONFIG, "model_max_length": context_length}),
        **extra,
    }


def gpt2_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the config.json of a stock GPT-2 has for this network."""
    config = checkpoint.config
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
        "n_positions": config.context_length, "n_embd": config.d_model,
        "n_layer": config.num_layers, "n_head": config.num_heads,
        "n_inner": config.feedforward_width, "activation_function": config.activation,
        "embd_pdrop": config.dropout, "resid_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
    }  # fmt: skip


def gpt2_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights by GPT-2's names; its linear layers are transposed and have biases."""
    config, found = checkpoint.config, _renamed(checkpoint, _GPT2_NAMES)
    if config.positions == "sinusoidal":
        table = sinusoidal_table(config.context_length, config.d_model)
        found["transformer.wpe.weight"] = table
    return {n: w.T if ".h." in n and w.ndim == 2 else w for n, w in found.items()}


def _neox_config(checkpoint: Checkpoint) -> dict[str, Any]:
    config, vocab_size = checkpoint.config, checkpoint.tokenizer.vocab_size
    bigram = config.network == "bigram"
    return {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox",
        "max_position_embeddings": config.context_length,
        "hidden_size": vocab_size if bigram else config.d_model,
        "num_hidden_layers": 0 if bigram else config.num_layers,
        "num_attention_heads": 1 if bigram else config.num_heads,
        "intermediate_size": config.feedforward_width, "hidden_act": config.activation,
        "use_parallel_residual": False, "rotary_pct": 1.0, "rotary_emb_base": 10_000,
        "hidden_dropout": config.dropout, "attention_dropout": config.attention_dropout,
    }  # fmt: skip


def _neox_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights by GPT-NeoX's names. It has queries, keys and values head by head, and
    rotates the first half of each with the second, as we do.
    """
    if checkpoint.config.network == "bigram":
        return _bigram_weights(checkpoint.weights["table.weight"])
    found = _renamed(checkpoint, _NEOX_NAMES)
    for name, tensor in found.items():
        if ".query_key_value." in name:
            parts = tensor.unflatten(0, (3, checkpoint.config.num_heads, -1))
            found[name] = parts.transpose(0, 1).flatten(0, 2)
    return found


def _bigram_weights(table: Tensor) -> dict[str, Tensor]:
    """Return the weights of a GPT-NeoX without layers: its final norm gets one-hot vectors, and
    undoes itself; the head is the table.
    """
    one_hot = torch.eye(len(table), dtype=torch.float64)
    deviation = (one_hot.var(dim=0, correction=0) + _NORM_EPSILON).sqrt()
    return {
        "gpt_neox.embed_in.weight": one_hot, "gpt_neox.final_layer_norm.weight": deviation,
        "gpt_neox.final_layer_norm.bias": one_hot.mean(dim=0), "embed_out.weight": table.T,
    }  # fmt: skip


def _renamed(checkpoint: Checkpoint, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the weights by a stock model's names, with a bias in all layers but the head."""
    config, weights = checkpoint.config, dict(checkpoint.weights)
    for name, tensor in checkpoint.weights.items():
        if name.startswith(("blocks.", "final_norm.")) and name.endswith(".weight"):
            weights.setdefault(name.replace(".weight", ".bias"), tensor.new_zeros(len(tensor)))
    weights["final_norm.bias"] = cast("Tensor", _final_bias(checkpoint))
    weights.pop("head.bias", None)
    if config.scale_embedding:
        weights["embedding.weight"] = weights["embedding.weight"] * math.sqrt(config.d_model)
    for ours, theirs in names.items():
        weights = {name.replace(ours, theirs): tensor for name, tensor in weights.items()}
    return weights


def _final_bias(checkpoint: Checkpoint) -> Tensor | None:
    """Return the bias of the final norm plus one that the head maps to its own bias, which stock
    models lack. None if there is none up to rounding: d_model must be at least vocab_size.
    """
    weights = checkpoint.weights
    bias = weights.get("final_norm.bias", torch.zeros(checkpoint.config.d_model))
    if "head.bias" not in weights:
        return bias
    head, wanted = weights["head.weight"].double(), weights["head.bias"].double()
    folded = torch.linalg.lstsq(head, wanted[:, None]).solution[:, 0]
    rounding = (head.abs() @ folded.abs()).max() * torch.finfo(torch.float32).eps
    error = (head @ folded - wanted).abs().max() + rounding
    return bias + folded if error < _FOLDED else None


def _own_config(config: NetworkOptions) -> dict[str, Any]:
    classes = {
        "AutoConfig": f"{_MODELLING}.ShakespeareLMConfig",
        "AutoModelForCausalLM": f"{_MODELLING}.ShakespeareLMForCausalLM",
    }
    return {
        **{name: getattr(config, name) for name in KNOWN}, "auto_map": classes,
        "d_feedforward": config.feedforward_width, "architectures": ["ShakespeareLMForCausalLM"],
        "model_type": "shakespeare_lm",
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
