"""Where a run begins, and the options that this implies: anew with a recipe, where another run
stopped, or with the weights of another model.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import Resumable, find_checkpoint, resolve_checkpoint
from shakespeare_lm.checkpoint.starting_model import fixed_options
from shakespeare_lm.methods.networks import NETWORK_OPTIONS


class Origin(NamedTuple):
    """Where a run begins. What is typed wins over its options, those over its files."""

    configs: list[Path]
    options: dict[str, object] = {}  # noqa: RUF012  by the names of the command line
    resumed: Resumable | None = None
    initial: Checkpoint | None = None
    initial_path: Path | None = None

    @property
    def arguments(self) -> list[str]:
        """The options as command-line arguments."""
        return [
            f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in self.options.items()
        ]


def find_origin(
    ckpt_path: str | None,
    init_from: str | None,
    configs: list[Path],
    root: Path,
    known: Collection[str],
) -> Origin:
    """Return where a run begins.

    Args:
        ckpt_path: a checkpoint to resume, the folder of a run, or "last", the newest run; with the
            config.yaml of a run, the last of that run.
        init_from: a checkpoint or run whose weights a new run starts with.
        configs: the YAML files given. Without one, a resumed run has the options of its own.
        root: the folder of all runs.
        known: the names of the model's options. Others in a checkpoint, of an older version, are
            left out.

    Raises:
        UserError: if there is no such checkpoint, or it cannot be read.
    """
    if ckpt_path is None:
        if init_from is None:
            return Origin(configs)
        path = find_checkpoint(init_from, root)
        initial = read_checkpoint(path)
        return Origin(configs, _options_to_start(initial), None, initial, path)
    if ckpt_path == "last" and configs and (configs[-1].parent / "checkpoints").is_dir():
        ckpt_path = str(configs[-1].parent)
    resumed = resolve_checkpoint(ckpt_path, root)
    if configs:
        return Origin(configs, {}, resumed)
    if resumed.run is not None and resumed.run.config_file.is_file():
        return Origin([resumed.run.config_file], {}, resumed)
    return Origin([], _options_to_resume(resumed.checkpoint, known), resumed)


def _options_to_start(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the options that a checkpoint's weights depend on, and its optimizer: not every one
    fits every network.
    """
    options = fixed_options(checkpoint.config)
    stored = checkpoint.content["hyper_parameters"]
    if "optimizer" in stored:
        options["optimizer"] = stored["optimizer"]
    if checkpoint.config.network == "bigram":
        options["characters_ahead"] = 1  # more in the default recipe, for transformers only
    return _by_name(options, checkpoint)


def _options_to_resume(checkpoint: Checkpoint, known: Collection[str]) -> dict[str, object]:
    """Return all options of the model in a checkpoint that lies outside the folder of its run."""
    stored = checkpoint.content["hyper_parameters"]
    options = {name: value for name, value in stored.items() if name in known}
    options |= {name: getattr(checkpoint.config, name) for name in NETWORK_OPTIONS}
    return {"seed_everything": stored.get("seed", 1337), **_by_name(options, checkpoint)}


def _by_name(options: dict[str, object], checkpoint: Checkpoint) -> dict[str, object]:
    named = {f"model.{name}": value for name, value in options.items() if name != "context_length"}
    return {**named, "data.context_length": checkpoint.config.context_length}
