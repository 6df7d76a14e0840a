"""A checkpoint <-> a `.safetensors` file: weights, and in its header sizes and vocabulary.

The format can hold no code; `read_checkpoint` checks the rest, as of every checkpoint.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from shakespeare_lm.checkpoint.ckpt_file import check_is_file
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.methods.networks import NETWORK_OPTIONS

SUFFIX = ".safetensors"
# Names of the header's texts.
_HYPERPARAMETERS, _FORMAT = "shakespeare_lm", "shakespeare_lm_format"


def safetensors_bytes(
    weights: dict[str, Any], hyperparameters: dict[str, Any], format_number: int
) -> bytes:
    """Return the content of a file with the network's weights, its options and vocabulary."""
    kept = {name: hyperparameters[name] for name in ("vocabulary", *NETWORK_OPTIONS)}
    # JSON's escapes keep the header ASCII, whatever the vocabulary is.
    header = {"format": "pt", _HYPERPARAMETERS: json.dumps(kept), _FORMAT: str(format_number)}
    # Clones, because the format refuses tensors that share their memory.
    content = save({name: tensor.clone() for name, tensor in weights.items()}, header)
    # safetensors 0.8 writes these texts in random order; sorted, a model is always the same bytes.
    size = int.from_bytes(content[:8], "little")
    sorted_header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True).encode()
    sorted_header += b" " * (-len(sorted_header) % 8)  # so that tensors stay aligned
    return len(sorted_header).to_bytes(8, "little") + sorted_header + content[8 + size :]


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """Return the content as a checkpoint has it; a `UserError` says why it cannot be read."""
    check_is_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        hyperparameters = json.loads(header[_HYPERPARAMETERS])
        number = int(header[_FORMAT])
    except KeyError:
        raise UserError(f"{path} is a file of another program: its header has no sizes") from None
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        reason = one_line(error)[:200]
        raise UserError(f"{path} is damaged or not a safetensors file: {reason}") from None
    # A tied head is in the file once. A bigram has neither, whatever the option says.
    if isinstance(hyperparameters, dict) and hyperparameters.get("tied_head") is True:
        for name in ("embedding.weight", "base.embedding.weight"):
            if name in weights:
                weights.setdefault(name.replace("embedding", "head"), weights[name])
    prefix = "transformer." if number == 1 else "network."  # of the names in a checkpoint
    state = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    return {"hyper_parameters": hyperparameters, "state_dict": state, _FORMAT: number}
