"""checkpoint -> hyperparameters and weights, read so that nothing in the file runs.

Enters: a path. Leaves: a `Checkpoint`, whose parts fit each other.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shakespeare_lm.checkpoint.archive import EXPECTED, check_archive
from shakespeare_lm.checkpoint.safetensors_file import SUFFIX, read_safetensors
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.methods.networks import Network, build_network
from shakespeare_lm.model.config import NETWORK_OPTIONS, NetworkConfig

# Raised when older programs would misread what newer ones write. Checkpoints without a number are
# those before 0.1.0, which are read as 1.
FORMAT = 1
FORMAT_KEY = "shakespeare_lm_format"

# What older checkpoints of this format do not name, with the value that it had.
ADDED_OPTIONS = {"memory_order": 0, "memory_share": 0.0, "characters_ahead": 1}
_WEIGHTS_PREFIX = "transformer."  # of the network's weights in the LightningModule's state
_COUNTS = ("num_layers", "previous_characters")  # each adds tensors
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PLAIN = str | int | float | None  # bool is an int


class Checkpoint(NamedTuple):
    """A checkpoint of this program.

    Args:
        tokenizer: for the vocabulary in the hyperparameters.
        config: of the network.
        weights: as the network names them.
        content: everything, as training wrote it; tensors are on the CPU.
    """

    tokenizer: CharTokenizer
    config: NetworkConfig
    weights: dict[str, Tensor]
    content: dict[str, Any]

    def network(self) -> Network:
        """Return the network with its weights, in float32."""
        network = build_network(self.tokenizer.vocab_size, self.config, initialise=False)
        network.load_state_dict(self.weights)
        return network

    @property
    def distinct_weights(self) -> dict[str, Tensor]:
        """The weights, each once: a tied head is the embedding."""
        tied = self.config.tied_head and self.config.network == "transformer"
        return {n: w for n, w in self.weights.items() if not (tied and n == "head.weight")}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or a `.safetensors` file that was exported from one; it can come from
    anybody.

    Nothing in the file runs, and nothing in it makes this take more memory or time than a file of
    its size may.

    Raises:
        UserError: if the file is missing, damaged, or not from this program.
    """
    is_safetensors = Path(path).suffix == SUFFIX
    content = read_safetensors(path) if is_safetensors else read_archive(path)
    _check_is_ours(content, path)
    weights = {
        name.removeprefix(_WEIGHTS_PREFIX): tensor
        for name, tensor in content["state_dict"].items()
        if str(name).startswith(_WEIGHTS_PREFIX)
    }
    hyperparameters = content["hyper_parameters"]
    for name, value in ADDED_OPTIONS.items():
        hyperparameters.setdefault(name, value)
    _check_size(content["state_dict"], hyperparameters, path)
    try:
        tokenizer = CharTokenizer(hyperparameters["vocabulary"])
        config = NetworkConfig(**{name: hyperparameters[name] for name in NETWORK_OPTIONS})
        with torch.device("meta"):  # shapes without memory
            network = build_network(tokenizer.vocab_size, config, initialise=False)
            expected = network.state_dict()
        if isinstance(network, MemoryTransformer):
            for name in ("ngrams.text", "ngrams.lengths"):
                expected[name] = weights.get(name, expected[name])
            network.ngrams.check_state(expected["ngrams.text"], expected["ngrams.lengths"])
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path} does not hold a working model: {one_line(error)[:200]}") from None
    _check_shapes(expected, weights, path)
    return Checkpoint(tokenizer, config, weights, content)


def read_archive(path: str | Path) -> Any:
    """Return tensors and plain values that torch.save wrote, with tensors on the CPU.

    Raises:
        UserError: if the file is missing, damaged, or holds anything else.
    """
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as many kinds as there are ways to be wrong
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or not a checkpoint: {reason}") from None


def _check_is_ours(checkpoint: object, path: str | Path) -> None:
    if isinstance(checkpoint, dict):
        _check_format(checkpoint.get(FORMAT_KEY, FORMAT), path)
    hyperparameters = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    complete = (
        isinstance(hyperparameters, dict)
        and all(name in hyperparameters for name in NETWORK_OPTIONS if name not in ADDED_OPTIONS)
        and isinstance(hyperparameters.get("vocabulary"), str)
        and isinstance(checkpoint.get("state_dict"), dict)  # type: ignore[attr-defined]
    )
    if not complete:
        raise UserError(
            f"{path} is a checkpoint of another program: it lacks the vocabulary and sizes of a "
            "shakespeare_lm model"
        )
    step = checkpoint.get("global_step", 0)  # type: ignore[attr-defined]
    if type(step) is not int:
        # Not the value: printing nested lists from a hostile file can take forever.
        raise UserError(f"{path}: global_step is {type(step).__name__}, not an integer; {EXPECTED}")
    for name, value in hyperparameters.items():  # type: ignore[union-attr]
        if not isinstance(name, str) or name.startswith("_") or not isinstance(value, _PLAIN):
            # Lightning's _instantiator and _class_path name code to run.
            raise UserError(
                f"{path} has a hyperparameter {str(name)[:40]!r} that this program does not write: "
                f"{EXPECTED}"
            )


def _check_format(number: object, path: str | Path) -> None:
    if type(number) is not int or number < 1:
        raise UserError(f"{path} has an invalid format number: {EXPECTED}")
    if number > FORMAT:
        raise UserError(
            f"{path} was written by a later version of shakespeare_lm: its format is {number}, and "
            f"this version reads up to {FORMAT}; upgrade to load it"
        )


def _check_size(
    state: Mapping[Any, Any], hyperparameters: Mapping[str, Any], path: str | Path
) -> None:
    """Compare counts and bytes with the file before memory is taken for a network of such sizes."""
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(
                f"{path} does not hold a working model: {str(name)[:40]!r} is not a tensor"
            )
    # A tied head counts twice, but is in the file once.
    if sum(tensor.nbytes for tensor in state.values()) > 2 * Path(path).stat().st_size:
        raise UserError(
            f"{path} does not hold a working model: its weights are larger than the file"
        )
    for name in _COUNTS if hyperparameters["network"] != "bigram" else ():
        count = hyperparameters[name]
        if isinstance(count, int) and count > len(state):
            raise UserError(
                f"{path} does not hold a working model: {name} is {count}, but there are "
                f"{len(state)} tensors"
            )


def _check_shapes(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: str | Path
) -> None:
    for name in sorted(expected.keys() ^ weights.keys()):
        which = "lacks the" if name in expected else "has unknown"
        raise UserError(f"{path} does not hold a working model: it {which} weights {name[:80]}")
    for name, tensor in weights.items():
        shape, wanted = tuple(tensor.shape), tuple(expected[name].shape)
        if shape != wanted:
            raise UserError(
                f"{path} does not hold a working model: {name} has shape {shape}, expected {wanted}"
            )
        if name.startswith("ngrams."):
            continue  # checked before
        if tensor.dtype not in _FLOATS or not torch.isfinite(tensor).all():
            raise UserError(f"{path} does not hold a working model: {name} has non-finite values")
