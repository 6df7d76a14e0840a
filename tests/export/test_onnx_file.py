"""ONNX: onnxruntime computes the same at other shapes, and 8 bits nearly so."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from shakespeare_lm.errors import UserError
from shakespeare_lm.export.onnx_file import OnnxNetwork, write_onnx
from tests.export.models import VOCABULARY, network_of, random_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "rotary": {"positions": "rotary", "previous_characters": 0},
    "learned, post-norm": {"positions": "learned", "norm": "post", "bias": True},
    "bigram": {"network": "bigram", "optimizer": "adamw"},
}


@pytest.fixture
def onnxruntime() -> Any:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="needs pip install -e '.[onnx]'")
    return pytest.importorskip("onnxruntime", reason="needs pip install -e '.[onnx]'")


@pytest.mark.parametrize("name", OPTIONS)
def test_onnxruntime_computes_the_same_at_any_shape(
    tmp_path: Path, onnxruntime: Any, name: str
) -> None:
    checkpoint = random_checkpoint(tmp_path, **OPTIONS[name])
    path = tmp_path / "model.onnx"
    write_onnx(checkpoint, path)
    exported, network = OnnxNetwork(path), network_of(checkpoint)
    for shape in ((1, 1), (1, 24), (3, 7), (5, 2)):
        ids = torch.randint(len(VOCABULARY), shape)
        with torch.inference_mode():
            torch.testing.assert_close(exported(ids), network(ids), atol=1e-4, rtol=1e-4)
    metadata = exported.session.get_modelmeta().custom_metadata_map
    assert metadata == {"vocabulary": VOCABULARY, "context_length": "24"}
    assert [file.name for file in tmp_path.iterdir() if "onnx" in file.name] == ["model.onnx"]


def test_8_bits_are_smaller_and_nearly_the_same(tmp_path: Path, onnxruntime: Any) -> None:
    checkpoint = random_checkpoint(tmp_path, d_model=128)
    sizes = {}
    for dtype in ("float32", "int8"):
        write_onnx(checkpoint, tmp_path / dtype, dtype)  # type: ignore[arg-type]
        sizes[dtype] = (tmp_path / dtype).stat().st_size
    assert sizes["int8"] < 0.4 * sizes["float32"]
    ids = torch.randint(len(VOCABULARY), (2, 24))
    first, second = (OnnxNetwork(tmp_path / dtype)(ids) for dtype in sizes)
    assert 0 < float((first - second).abs().mean()) < 0.1 * float(first.std())


def test_a_missing_package_is_named_with_the_line_that_adds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # which makes importing it fail
    with pytest.raises(UserError, match=r"needs onnx: pip install 'shakespeare-lm\[onnx\]'"):
        write_onnx(random_checkpoint(tmp_path), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
