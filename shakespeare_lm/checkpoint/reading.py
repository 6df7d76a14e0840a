"""checkpoint -> hyperparameters and weights that fit each other; nothing in the file runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shakespeare_lm.checkpoint.ckpt_file import EXPECTED, read_archive
from shakespeare_lm.checkpoint.safetensors_file import SUFFIX, read_safetensors
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.methods.import_path import UntrustedCodeError
from shakespeare_lm.methods.networks import NETWORK_OPTIONS, NetworkOptions, build_network
from shakespeare_lm.methods.objectives import ObjectiveConfig
from shakespeare_lm.model.network import Network

# Raised when older programs would misread what newer ones write. Checkpoints without a number,
# from before 0.1.0, are read as format 1, in which weights had other names.
FORMAT = 2
FORMAT_KEY = "shakespeare_lm_format"

# Options that older checkpoints lack, with the values that they were trained with.
ADDED_OPTIONS = {**NetworkOptions.ADDED, **ObjectiveConfig.ADDED}
_WEIGHTS_PREFIX = "network."  # of the network's weights in the LightningModule's state
_MEMORY = ("ngrams.text", "ngrams.lengths")
_OF_MEMORY = ("ngrams.", "read_ngrams.", "trust")
_COUNTS = ("num_layers", "previous_characters")  # each adds tensors
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PLAIN = str | int | float | None  # bool is an int
_DATA_KEY = "ShakespeareDataModule"  # Lightning's name for the text's fingerprint and files
_DATA_TYPES = {"corpus": list, "text_sha256": str, "seed": int}


class Checkpoint(NamedTuple):
    """A checkpoint of this program."""

    tokenizer: CharTokenizer
    config: NetworkOptions
    weights: dict[str, Tensor]  # as the network names them
    content: dict[str, Any]  # everything, as training wrote it; tensors are on the CPU

    def network(self) -> Network:
        """Return the network with its weights, in float32."""
        network = build_network(self.tokenizer.vocab_size, self.config, initialise=False)
        network.load_state_dict(self.weights)
        return network

    @property
    def trained_on(self) -> dict[str, Any]:
        """The names and fingerprint of the text, and how it was split; empty if unknown."""
        return self.content.get(_DATA_KEY) or {}

    @property
    def distinct_weights(self) -> dict[str, Tensor]:
        """The weights, each once: a tied head is the embedding."""
        tied = self.config.tied_head and self.config.network == "transformer"
        return {n: w for n, w in self.weights.items() if not (tied and n.endswith("head.weight"))}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or a `.safetensors` file exported from one; it can come from anybody.

    Nothing in the file runs, and memory and time stay in proportion to its size.

    Raises:
        UserError: if the file is missing, damaged, or not from this program.
    """
    is_safetensors = Path(path).suffix == SUFFIX
    content = read_safetensors(path) if is_safetensors else read_archive(path)
    _check_is_ours(content, path)
    rename_weights(content)
    hyperparameters, state = content["hyper_parameters"], content["state_dict"]
    for name, value in ADDED_OPTIONS.items():
        hyperparameters.setdefault(name, value)
    try:
        _check_size(state, hyperparameters, Path(path).stat().st_size)
        weights = {
            name.removeprefix(_WEIGHTS_PREFIX): tensor
            for name, tensor in state.items()
            if name.startswith(_WEIGHTS_PREFIX)
        }
        tokenizer = CharTokenizer(hyperparameters["vocabulary"])
        config = NetworkOptions(**{name: hyperparameters[name] for name in NETWORK_OPTIONS})
        expected = _expected_weights(tokenizer.vocab_size, config, weights)
        _check_shapes(expected, weights)
    except UntrustedCodeError as error:
        raise UntrustedCodeError(f"{path}: {error}") from None
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path} does not hold a working model: {one_line(error)[:200]}") from None
    return Checkpoint(tokenizer, config, weights, content)


def _expected_weights(
    vocab_size: int, config: NetworkOptions, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return tensors without memory of the shapes that the options ask for. An n-gram memory, which
    has any size, is checked and returned as it is.
    """
    with torch.device("meta"):
        network = build_network(vocab_size, config, initialise=False)
        expected = network.state_dict()
    if config.memory_order:
        memory = {name: weights.get(name, expected[name]) for name in _MEMORY}
        network.ngrams.check_state(*memory.values())  # type: ignore[operator,union-attr]
        expected |= memory
    return expected


def rename_weights(content: dict[str, Any]) -> None:
    """Rename, in place, the weights of a checkpoint of format 1, and drop the state dict's
    metadata, which torch would trust.
    """
    content["state_dict"] = dict(content.get("state_dict", {}))
    if content.get(FORMAT_KEY, 1) != 1:
        return
    content[FORMAT_KEY] = FORMAT
    has_memory = bool(content["hyper_parameters"].get("memory_order"))
    for part in ("state_dict", "gradients"):
        if isinstance(content.get(part), dict):
            content[part] = {_renamed(n, has_memory): t for n, t in content[part].items()}


def _renamed(name: Any, has_memory: bool) -> Any:
    part, _, own = name.partition(".") if isinstance(name, str) else ("", "", "")
    if part == "further_head":
        return f"objectives.multi_token.head.{own}"
    inside = "base." if has_memory and not own.startswith(_OF_MEMORY) else ""
    return f"{_WEIGHTS_PREFIX}{inside}{own}" if part == "transformer" else name


def _check_is_ours(read: object, path: str | Path) -> None:
    content = read if isinstance(read, dict) else {}
    _check_format(content.get(FORMAT_KEY, FORMAT), path)
    hyperparameters = content.get("hyper_parameters")
    if not (
        isinstance(hyperparameters, dict)
        and isinstance(hyperparameters.get("vocabulary"), str)
        and isinstance(content.get("state_dict"), dict)
        and not hyperparameters.keys().isdisjoint(NETWORK_OPTIONS)
    ):
        raise UserError(
            f"{path} is a checkpoint of another program: it lacks the vocabulary and sizes of a "
            "shakespeare_lm model"
        )
    for name in NETWORK_OPTIONS:
        if name not in hyperparameters and name not in ADDED_OPTIONS:
            raise UserError(
                f"{path} lacks the option {name}: a version that adds an option also names, in "
                "ADDED, what checkpoints without it were trained with"
            )
    _check_data(content.get(_DATA_KEY) or {}, path)
    step = content.get("global_step", 0)
    if type(step) is not int:
        raise UserError(f"{path}: global_step is {type(step).__name__}, not an integer; {EXPECTED}")
    for name, value in hyperparameters.items():
        if not isinstance(name, str) or name.startswith("_") or not isinstance(value, _PLAIN):
            # Lightning's _instantiator and _class_path name code to run.
            raise UserError(
                f"{path} has a hyperparameter {str(name)[:40]!r} that this program does not write: "
                f"{EXPECTED}"
            )


def _check_data(data: object, path: str | Path) -> None:
    for name, kind in _DATA_TYPES.items():
        value = data.get(name, kind()) if isinstance(data, dict) else None
        texts = value if isinstance(value, list) else []
        if not isinstance(value, kind) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}: the {name} of its text is invalid; {EXPECTED}")


def _check_format(number: object, path: str | Path) -> None:
    if type(number) is not int or number < 1:
        raise UserError(f"{path} has an invalid format number: {EXPECTED}")
    if number > FORMAT:
        raise UserError(
            f"{path} was written by a later version of shakespeare_lm: its format is "
            f"{str(number)[:20]}, and this version reads up to {FORMAT}; upgrade to load it"
        )


def _check_size(
    state: Mapping[Any, Any], hyperparameters: Mapping[str, Any], file_bytes: int
) -> None:
    """Compare counts and bytes with the file before memory is taken for a network of such sizes."""
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{str(name)[:40]!r} is not a tensor")
    # A tied head counts twice, but is in the file once.
    if sum(tensor.nbytes for tensor in state.values()) > 2 * file_bytes:
        raise ValueError("its weights are larger than the file")
    for name in _COUNTS if hyperparameters["network"] == "transformer" else ():
        count = hyperparameters[name]
        if isinstance(count, int) and count > len(state):
            raise ValueError(f"{name} is {count}, but there are {len(state)} tensors")


def _check_shapes(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name in sorted(expected.keys() ^ weights.keys()):
        which = "lacks the" if name in expected else "has unknown"
        raise ValueError(f"it {which} weights {name[:80]!r}")
    for name, tensor in weights.items():
        shape, wanted = tuple(tensor.shape), tuple(expected[name].shape)
        if shape != wanted:
            raise ValueError(f"{name} has shape {shape}, expected {wanted}")
        if name.startswith("ngrams."):
            continue  # checked before
        if tensor.dtype not in _FLOATS or not tensor.float().isfinite().all():
            raise ValueError(f"{name} has non-finite values, in float32")
