"""The package's rooms: which may use which, where Lightning is imported, what is public."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "shakespeare_lm"
# A room may use those before it. Rooms on one level do not use each other.
ROOMS = [
    "errors invocation",
    "hardware",
    "kernels",
    "data model",
    "methods",
    "checkpoint",
    "completion",
    "evaluation page export serving",
    "training laboratory",
    "commands",
    "__main__",
]
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names.split()}
LIGHTNING = ("training/", "data/datamodule.py", "commands/fit")
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports_of(module: str) -> set[str]:
    """Return the full names of all that a module imports anywhere, inside functions too."""
    nodes = list(ast.walk(ast.parse((PACKAGE / module).read_text("utf-8"))))
    froms = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return froms | {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}


def room_of(module: str) -> str:
    return module.partition("/")[0].removesuffix(".py")


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"__init__.py"}))
def test_a_room_uses_only_the_rooms_before_it_and_few_import_lightning(module: str) -> None:
    for name in imports_of(module):
        if name.startswith("shakespeare_lm."):
            used, room = name.split(".")[1], room_of(module)
            assert used == room or LEVEL[used] < LEVEL[room], f"{module} imports {name}"
        if name.startswith(("pytorch_lightning", "lightning")):
            assert module.startswith(LIGHTNING), f"{module} imports {name}"


def test_rooms_have_a_docstring_and_nothing_else() -> None:
    for path in PACKAGE.glob("*/__init__.py"):
        (only,) = ast.parse(path.read_text("utf-8")).body
        assert isinstance(only, ast.Expr), path
        assert len(ast.literal_eval(only.value)) > 40


def test_no_module_imports_itself_through_others() -> None:
    uses = {
        f"shakespeare_lm.{m.removesuffix('.py').replace('/', '.')}": imports_of(m) for m in MODULES
    }

    def reachable(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        direct = (uses[name] & uses.keys()) - seen
        return direct.union(*(reachable(other, seen | direct) for other in direct))

    for name in uses:
        assert name not in reachable(name)


def test_every_public_name_can_be_imported() -> None:
    import shakespeare_lm

    for name in shakespeare_lm.__all__:
        assert getattr(shakespeare_lm, name).__name__ == name
    assert set(shakespeare_lm.__all__) <= set(dir(shakespeare_lm))
