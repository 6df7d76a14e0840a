"""Puts the recipes into the wheel, for `--config little`; everything else is in pyproject.toml."""

from glob import glob

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies configs/ to shakespeare_lm/configs/. As a package of that name it would make editable
    installations use an import hook, which type checkers do not follow.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_tree("configs", f"{self.build_lib}/shakespeare_lm/configs")

    def get_source_files(self) -> list[str]:  # of a source distribution
        return [*super().get_source_files(), *glob("configs/*.yaml")]


setup(cmdclass={"build_py": BuildWithRecipes})
