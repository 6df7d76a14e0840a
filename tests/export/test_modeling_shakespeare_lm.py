"""The modelling file stands alone, and knows every option of a network that it may meet."""

import ast
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shakespeare_lm.checkpoint.closed import KNOWN
from shakespeare_lm.model.config import NetworkConfig

SOURCE = Path(__file__).parents[2] / "shakespeare_lm/export/modeling_shakespeare_lm.py"


def test_it_needs_torch_and_transformers_only() -> None:
    tree = ast.walk(ast.parse(SOURCE.read_text()))
    modules = {node.module for node in tree if isinstance(node, ast.ImportFrom)}
    assert all(
        str(name).partition(".")[0] in ("torch", "transformers", "typing") for name in modules
    )


def constant(name: str) -> Any:
    """Return a constant of the file, which needs an extra to be imported."""
    for node in ast.parse(SOURCE.read_text()).body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id == name and node.value is not None:
                return ast.literal_eval(node.value)
    raise AssertionError(name)


def test_it_knows_the_options_that_exports_let_pass_with_the_defaults_of_the_model() -> None:
    options = constant("OPTIONS")
    assert options.keys() == KNOWN.keys()
    defaults = asdict(NetworkConfig())
    assert options == {**{name: defaults[name] for name in options}, "d_feedforward": 640}


def test_it_knows_the_values_that_exports_let_pass() -> None:
    choices = {name: values for name, values in KNOWN.items() if values is not None}
    assert constant("CHOICES") == choices
