"""A checkpoint -> a GGUF file, which llama.cpp and what is built on it (ollama, LM Studio) run, if
the network is GPT-2 by another name.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.errors import UserError, import_extra
from shakespeare_lm.export.huggingface import PADDING, gpt2_weights, stock_model

_NORMAL, _CONTROL = 1, 3  # kinds of tokens
_LAYER_NORM_EPSILON = 1e-5  # torch's


def check_gguf(checkpoint: Checkpoint) -> None:
    """Raise a `UserError` if llama.cpp cannot run the network."""
    if stock_model(checkpoint) != "gpt2" or checkpoint.config.activation != "gelu":
        raise UserError(
            "GGUF holds stock GPT-2 only: a transformer with learned or sinusoidal positions, norm "
            "pre, previous_characters 0, activation gelu, and biases only where d_model is at "
            "least the number of symbols, such as the recipe laptop"
        )


def write_gguf(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file, in float32; a `UserError` says that the package gguf is missing."""
    gguf = import_extra("gguf", "gguf", "exporting to GGUF")
    config, writer = checkpoint.config, gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.feedforward_width)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_layer_norm_eps(_LAYER_NORM_EPSILON)
    _add_tokenizer(writer, checkpoint, gguf.bytes_to_unicode())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config.num_layers)
    for name, tensor in _stored(gpt2_weights(checkpoint)):
        writer.add_tensor(
            names.get_name(name, (".weight", ".bias")), tensor.float().contiguous().numpy()
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, checkpoint: Checkpoint, symbols: dict[int, str]) -> None:
    """Add GPT-2's byte-pair encoding, whose tokens are spelled with a symbol per byte: the merges
    put the bytes of each character together.
    """
    vocabulary, padding_id = checkpoint.tokenizer.vocabulary, checkpoint.tokenizer.padding_id
    tokens = ["".join(symbols[byte] for byte in character.encode()) for character in vocabulary]
    merges = [f"{token[:i]} {token[i]}" for token in tokens for i in range(1, len(token))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, PADDING])
    writer.add_token_types([_NORMAL] * len(tokens) + [_CONTROL])
    writer.add_token_merges(merges or [f"{PADDING} {PADDING}"])  # llama.cpp wants one
    # Else number 11 would be the end of a text.
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(padding_id)
    writer.add_add_bos_token(False)


def _stored(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights with the blocks' matrices as `[out, in]`, which GPT-2 has transposed."""
    for name, tensor in weights.items():
        yield name, tensor.T if ".h." in name and tensor.ndim == 2 else tensor
