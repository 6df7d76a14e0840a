"""The recipes: YAML files of options that come with the package, by name."""

from pathlib import Path

import shakespeare_lm
from shakespeare_lm.data.tokenizer import decode_utf8
from shakespeare_lm.errors import UserError

_PACKAGE = Path(shakespeare_lm.__file__).parent
# Inside the package if installed from a wheel, next to it in the repository.
FOLDER = next(
    folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()
)

DEFAULT = FOLDER / "default.yaml"


def recipe_names() -> list[str]:
    """Return the names of all recipes, the default first."""
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    return ["default", *sorted(names - {"default"})]


def config_path(config: str) -> Path:
    """Return the path of a YAML file: the one given, or that of a recipe by its name.

    Raises:
        UserError: if there is no such file, or it cannot be read as UTF-8.
    """
    path = Path(config)
    if not path.is_file():
        if config not in recipe_names():
            raise UserError(
                f"config is {config!r}: expected a YAML file, or one of the recipes: "
                f"{', '.join(recipe_names())}"
            )
        path = FOLDER / f"{config}.yaml"
    try:
        decode_utf8(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return path


def recipe_name(path: Path) -> str:
    """Return the name of a recipe, or the path of another YAML file."""
    return path.stem if path.resolve().parent == FOLDER.resolve() else path.as_posix()
