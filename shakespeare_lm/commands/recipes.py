"""The recipes: YAML files of options that come with the package, by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import shakespeare_lm
from shakespeare_lm.data.tokenizer import decode_utf8
from shakespeare_lm.errors import UserError, check_choice, one_line

_PACKAGE = Path(shakespeare_lm.__file__).parent
# Inside the package if installed from a wheel, next to it in the repository.
FOLDER = next(
    folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()
)

DEFAULT = FOLDER / "default.yaml"
GROUPS = ("model", "data", "sample", "trainer")
# Options that follow from others, which are to be set instead.
LINKS = {
    "data.seed": "seed_everything",
    "model.seed": "seed_everything",
    "model.context_length": "data.context_length",
    "model.vocabulary": "data.corpus",
}
# Sizes of a network by a word: layers, heads, width. Measured: docs/EXPERIMENTS.md.
SIZES = {
    "0.1M": (2, 2, 64),
    "0.3M": (3, 2, 96),
    "1M": (3, 2, 160),
    "3M": (4, 4, 256),
    "10M": (6, 6, 384),
}
_MAX_VALUES = 10_000  # in a file: aliases (`&a [*a]`) can stand for endlessly many


def recipe_names() -> list[str]:
    """Return the names of all recipes, the default first."""
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    return ["default", *sorted(names - {"default"})]


def config_path(config: str) -> Path:
    """Return the path of a YAML file: the one given, or that of a recipe by its name.

    Raises:
        UserError: if there is no such file.
    """
    path = Path(config)
    if path.is_file():
        return path
    if config not in recipe_names():
        raise UserError(
            f"config is {config!r}: expected a YAML file, or one of the recipes: "
            f"{', '.join(recipe_names())}"
        )
    return FOLDER / f"{config}.yaml"


def read_options(path: Path) -> dict[str, Any]:
    """Return what a YAML file holds; an empty one holds no options.

    Raises:
        UserError: if it holds anything else, or options that jsonargparse would ignore.
    """
    try:
        options = yaml.safe_load(decode_utf8(path.read_bytes(), path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {one_line(error)}") from None
    options = {} if options is None else options
    for group in ("", *GROUPS):
        found = options.get(group, {}) if group else options
        if not isinstance(found, dict):
            where, kind = f" under {group}" if group else "", type(found).__name__
            raise UserError(f"{path} has {kind}{where}: expected options by their names")
    check_links(options, path)
    _check_size(options, path)
    return options


def check_links(options: dict[str, Any], where: object) -> None:
    """Raise a `UserError` that names the first option which jsonargparse would ignore, and where it
    stands, because it follows from another.
    """
    for name, source in LINKS.items():
        group, _, option = name.partition(".")
        if name in options or option in options.get(group, {}):
            raise UserError(f"{where} sets {name}, which follows from {source}: set that instead")


def _check_size(options: dict[str, Any], path: Path) -> None:
    values: list[Any] = [options]
    for value in values:  # the list grows meanwhile
        values += value.values() if isinstance(value, dict) else ()
        values += value if isinstance(value, list) else ()
        if len(values) > _MAX_VALUES:
            raise UserError(f"{path} holds more than {_MAX_VALUES:,} values")


def recipe_name(path: Path) -> str:
    """Return the name of a recipe, or the path of another YAML file."""
    return path.stem if path.resolve().parent == FOLDER.resolve() else path.as_posix()


def options_of_size(size: str, model: Mapping[str, Any]) -> list[str]:
    """Return the words for a network of a size; `model` has the options of the recipe, whose
    learning rate is divided by as much as the width is multiplied (as in Yang et al. 2022, "Tensor
    Programs V"; Muon's is the same for all widths).
    """
    check_choice("size", size, SIZES)
    layers, heads, width = SIZES[size]
    rate = model["learning_rate"] * model["d_model"] / width
    options = {"num_layers": layers, "num_heads": heads, "d_model": width, "d_feedforward": "null"}
    return [
        f"--model.{name}={value}" for name, value in (options | {"learning_rate": rate}).items()
    ]
