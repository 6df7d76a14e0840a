"""Build the API reference from the docstrings: python docs/api.py; see build/api/index.html."""

import sys
import warnings
from pathlib import Path
from pkgutil import iter_modules

import pdoc
import pdoc.render

import shakespeare_lm

# A module that cannot be imported would only be missing; keywords of TypedDicts are found anyway.
warnings.filterwarnings("error", module="pdoc")
warnings.filterwarnings("ignore", "Cannot determine where", module="pdoc")


def build(folder: Path) -> None:
    """Write a page for the public names, and one for each module, into `folder`."""
    for name in shakespeare_lm.__all__:
        # pdoc takes what is in the module already; it does not ask its __getattr__.
        setattr(shakespeare_lm, name, getattr(shakespeare_lm, name))
    names = [module.name for module in iter_modules(shakespeare_lm.__path__)]
    parts = [f"shakespeare_lm.{name}" for name in names if name != "__main__"]
    pdoc.render.configure(docformat="google", footer_text="shakespeare_lm")
    pdoc.pdoc("shakespeare_lm", *parts, output_directory=folder)


if __name__ == "__main__":
    folder = Path(__file__).parents[1] / "build" / "api"
    build(folder)
    sys.stdout.write(f"{folder / 'index.html'}\n")
