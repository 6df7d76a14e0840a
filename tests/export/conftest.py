"""Shared by the tests of exports: transformers, which loads an exported model."""

import sys
from pathlib import Path
from typing import Any

import pytest

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.export.huggingface import huggingface_files


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return the package, which may not use the network, and keeps its copies of code here."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    package = pytest.importorskip("transformers", reason="needs pip install -e '.[huggingface]'")
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield package
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def load(transformers: Any, checkpoint: Checkpoint, folder: Path, **options: Any) -> Any:
    """Export a checkpoint; return the model and the tokenizer that transformers load from there."""
    exported = folder / "exported"
    exported.mkdir(exist_ok=True)
    for file, content in huggingface_files(checkpoint, "# card").items():
        (exported / file).write_bytes(content)
    model = transformers.AutoModelForCausalLM.from_pretrained(exported, **options)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(exported, **options)
