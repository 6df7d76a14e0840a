"""A checkpoint -> the first weights of another run, on another text.

Enters: a new module, and a checkpoint whose characters are the first of the module's vocabulary.
Leaves: the module with the checkpoint's weights. Symbols that the checkpoint does not know keep the
fresh rows of the new module.
"""

from pathlib import Path

import torch
from torch import Tensor

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.config import NETWORK_OPTIONS, NetworkConfig
from shakespeare_lm.training.module import ShakespeareLM

# They can change: no weight depends on them, but learned positions on the context's length.
_FREE = ("dropout", "attention_dropout", "zero_init", "context_length")


def fixed_options(config: NetworkConfig) -> dict[str, object]:
    """Return the options of a network that its weights depend on."""
    free = set(_FREE) - ({"context_length"} if config.positions == "learned" else set())
    return {name: getattr(config, name) for name in NETWORK_OPTIONS if name not in free}


def start_from(module: ShakespeareLM, checkpoint: Checkpoint, path: str | Path) -> None:
    """Give a new module the weights of a checkpoint.

    A memory is not taken over: the new run remembers its own training part.

    Raises:
        UserError: naming the first option of the network that differs; or if it reads a memory, by
            the number of the characters, and the text has new characters.
    """
    for name, value in fixed_options(checkpoint.config).items():
        if getattr(module.config, name) != value:
            raise UserError(
                f"init_from: {path} has {name} {value!r}, but this run has "
                f"{getattr(module.config, name)!r}: leave that option out"
            )
    reads = module.config.memory_order > 0 and not module.config.memory_share
    if reads and checkpoint.tokenizer.vocab_size < module.tokenizer.vocab_size:
        raise UserError(
            f"init_from: {path} reads a memory, and the text has characters that it does not know: "
            "start from a model without one"
        )
    weights = module.transformer.state_dict()
    for name, tensor in checkpoint.weights.items():
        if not name.startswith("ngrams."):
            weights[name] = _with_new_symbols(tensor, weights[name])
    module.transformer.load_state_dict(weights)


def _with_new_symbols(tensor: Tensor, fresh: Tensor) -> Tensor:
    """Return the fresh tensor with the given one copied into it, where each dimension of another
    size is that of the vocabulary: characters keep their ids, padding moves to the end.
    """
    result = fresh.clone()
    places = []
    for old, new in zip(tensor.shape, fresh.shape, strict=True):
        ids = torch.arange(old)
        places.append(torch.where(ids == old - 1, new - 1, ids) if old != new else ids)
    result[torch.meshgrid(*places, indexing="ij")] = tensor
    return result
