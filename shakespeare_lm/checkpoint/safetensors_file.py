"""A checkpoint <-> a `.safetensors` file: weights, and in its header sizes and vocabulary.

Enters: a `Checkpoint`, or the path of such a file, from anybody. Leaves: the file; or what
`read_checkpoint` then checks as it checks every checkpoint. The format can hold no code.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.model.config import NETWORK_OPTIONS

SUFFIX = ".safetensors"
# Names of the header's texts.
_HYPERPARAMETERS, _FORMAT = "shakespeare_lm", "shakespeare_lm_format"
_WEIGHTS_PREFIX = "transformer."


def safetensors_bytes(
    weights: dict[str, Any], hyperparameters: dict[str, Any], format_number: int
) -> bytes:
    """Return the content of the file.

    Args:
        weights: of the network, by name, each once: the format refuses shared memory.
        hyperparameters: of the run: network and vocabulary are taken.
        format_number: of the checkpoint that they come from.
    """
    kept = {name: hyperparameters[name] for name in ("vocabulary", *NETWORK_OPTIONS)}
    # Python's own escapes keep the header ASCII, whatever the vocabulary is.
    header = {"format": "pt", _HYPERPARAMETERS: json.dumps(kept), _FORMAT: str(format_number)}
    return bytes(save({name: tensor.contiguous() for name, tensor in weights.items()}, header))


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """Return the content as a checkpoint has it, unchecked.

    Raises:
        UserError: if the file is missing, damaged, or not from this program.
    """
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
    if (
        "embedding.weight" in weights
        and isinstance(hyperparameters, dict)
        and (hyperparameters.get("tied_head") is True)
    ):
        weights.setdefault("head.weight", weights["embedding.weight"])
    state = {f"{_WEIGHTS_PREFIX}{name}": tensor for name, tensor in weights.items()}
    return {"hyper_parameters": hyperparameters, "state_dict": state, _FORMAT: number}
