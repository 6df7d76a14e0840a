"""The package's shape: who may import whom, and what loads fast."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "shakespeare_lm"
LEVELS = [
    {"errors", "precision"},
    {
        "archive",
        "corpus",
        "download",
        "tokenizer",
        "chunks",
        "positions",
        "loss",
        "metric",
        "optim",
        "sampling",
        "ending",
        "device",
    },
    {"attention"},
    {"cache"},
    {"datamodule", "transformer", "bigram"},
    {"network", "reader"},
    {"checkpoint", "generation", "scoring"},
    {"module", "completion", "saving"},
    {"callbacks", "stopping", "console", "terminal"},
    {"jsonl"},
    {"cli", "completion_cli", "scoring_cli"},
]


def imports_of(name: str) -> set[str]:
    """Return the modules of this package that a module imports anywhere, inside functions too."""
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    froms = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    plain = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    return {full.split(".")[1] for full in froms | plain if full.startswith("shakespeare_lm.")}


def test_every_module_has_a_level_and_imports_none_above_its_own() -> None:
    level_of = {name: level for level, names in enumerate(LEVELS) for name in names}
    assert set(level_of) == {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    for name, level in level_of.items():
        for imported in imports_of(name):
            assert level_of[imported] <= level, f"{name} imports {imported}, which lies above it"


def test_no_imports_go_round_in_a_circle() -> None:
    def reachable(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        direct = imports_of(name) - seen
        return direct.union(*(reachable(other, seen | direct) for other in direct))

    for path in PACKAGE.glob("*.py"):
        if path.stem != "__init__":
            assert path.stem not in reachable(path.stem)


def test_completion_and_the_package_itself_need_no_lightning() -> None:
    code = (
        "import sys, shakespeare_lm; shakespeare_lm.Completer; shakespeare_lm.CausalTransformer;"
        "assert not [m for m in sys.modules if 'lightning' in m or 'torchmetrics' in m]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_imported() -> None:
    import shakespeare_lm

    for name in shakespeare_lm.__all__:
        assert getattr(shakespeare_lm, name).__name__ == name
    assert set(shakespeare_lm.__all__) <= set(dir(shakespeare_lm))
