"""A checkpoint -> the first weights of a run on another text, whose new symbols get fresh rows."""

from pathlib import Path

import torch
from torch import Tensor

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.networks import NETWORK_OPTIONS, NetworkOptions
from shakespeare_lm.model.network import Network

# Options that may change: only learned positions depend on one of them, the context's length.
_FREE = ("dropout", "attention_dropout", "zero_init", "context_length")


def fixed_options(config: NetworkOptions) -> dict[str, object]:
    """Return the options of a network that its weights depend on."""
    free = set(_FREE) - ({"context_length"} if config.positions == "learned" else set())
    return {name: getattr(config, name) for name in NETWORK_OPTIONS if name not in free}


def start_from(
    checkpoint: Checkpoint,
    path: str | Path,
    network: Network,
    config: NetworkOptions,
    tokenizer: CharTokenizer,
) -> None:
    """Give a new network the weights of a checkpoint, but not its memory of the training part.

    Raises:
        UserError: naming the first option that differs; or if the network reads a memory, whose
            size depends on the vocabulary, and the text has new characters.
    """
    for name, value in fixed_options(checkpoint.config).items():
        if getattr(config, name) != value:
            raise UserError(
                f"init_from: {path} has {name} {value!r}, but this run has "
                f"{getattr(config, name)!r}: leave that option out"
            )
    reads_memory = config.memory_order > 0 and not config.memory_share
    if reads_memory and checkpoint.tokenizer.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"init_from: {path} reads a memory, and the text has characters that it does not know: "
            "start from a model without one"
        )
    weights = network.state_dict()
    for name, tensor in checkpoint.weights.items():
        if not name.startswith("ngrams."):
            weights[name] = _with_new_symbols(tensor, weights[name])
    network.load_state_dict(weights)


def _with_new_symbols(tensor: Tensor, fresh: Tensor) -> Tensor:
    """Return the fresh tensor with the given one copied into it. Dimensions of another size are
    those of the vocabulary: characters keep their ids, padding moves to the end.
    """
    result = fresh.clone()
    indices = []
    for old, new in zip(tensor.shape, fresh.shape, strict=True):
        ids = torch.arange(old)
        indices.append(torch.where(ids == old - 1, new - 1, ids) if old != new else ids)
    result[torch.meshgrid(*indices, indexing="ij")] = tensor.to(result.dtype)
    return result
