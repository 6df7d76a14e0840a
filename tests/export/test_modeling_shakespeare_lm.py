"""The modelling file stands alone, and knows every option of a network that it may meet."""

import ast
from dataclasses import fields
from pathlib import Path

from shakespeare_lm.model.config import NetworkConfig

SOURCE = Path(__file__).parents[2] / "shakespeare_lm/export/modeling_shakespeare_lm.py"


def test_it_needs_torch_and_transformers_only() -> None:
    tree = ast.walk(ast.parse(SOURCE.read_text()))
    modules = {node.module for node in tree if isinstance(node, ast.ImportFrom)}
    assert all(
        str(name).partition(".")[0] in ("torch", "transformers", "typing") for name in modules
    )


def test_it_has_every_option_but_those_without_meaning_there() -> None:
    tree = ast.parse(SOURCE.read_text())
    (config,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name.endswith("Config")]
    (init,) = [n for n in config.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    names = {argument.arg for argument in init.args.args} - {"self", "vocab_size"}
    options = {field.name for field in fields(NetworkConfig)}
    assert names == options - {"memory_order", "memory_share", "zero_init"}
