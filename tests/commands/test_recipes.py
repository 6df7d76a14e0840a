"""Recipes by name."""

from pathlib import Path

import pytest

from shakespeare_lm.commands import recipes
from shakespeare_lm.commands.recipes import config_path, recipe_names
from shakespeare_lm.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_recipe_has_the_name_of_its_file_and_the_default_comes_first() -> None:
    assert recipe_names()[0] == "default"
    assert {config_path(name).resolve() for name in recipe_names()} == set(CONFIGS.glob("*.yaml"))


def test_a_file_of_the_same_name_comes_before_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_path("little") == recipes.FOLDER / "little.yaml"
    Path("little").write_text("data: {}")
    assert config_path("little") == Path("little")


@pytest.mark.parametrize("config", ["none.yaml", "Little", "little.yaml", "."])
def test_anything_else_is_an_error_that_lists_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"expected a YAML file, or one of the recipes: default, b"):
        config_path(config)


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"data: {corpus: \xff}")
    with pytest.raises(UserError, match=r"a\.yaml is not UTF-8 text: invalid byte 0xFF"):
        config_path(str(path))

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot read .*a\.yaml: Permission denied"):
        config_path(str(path))
