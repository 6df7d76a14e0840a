"""ONNX: onnxruntime computes the same at other shapes, with and without a past, and 8 bits nearly
so.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shakespeare_lm.errors import UserError
from shakespeare_lm.export.onnx_file import OnnxNetwork, facts_path, write_onnx
from tests.export.models import VOCABULARY, network_of, random_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {"previous_characters": 4},
    "rotary": {"positions": "rotary"},
    "learned, post-norm": {"positions": "learned", "norm": "post", "bias": True},
    "bigram": {"network": "bigram", "optimizer": "adamw"},
    "one character": {"context_length": 1},
}


@pytest.fixture
def onnxruntime() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs pip install -e '.[onnx]'")


@pytest.mark.usefixtures("onnxruntime")
@pytest.mark.parametrize("name", OPTIONS)
def test_onnxruntime_computes_the_same_at_any_shape(tmp_path: Path, name: str) -> None:
    checkpoint = random_checkpoint(tmp_path, num_layers=1, **OPTIONS[name])
    path = tmp_path / "model.onnx"
    write_onnx(checkpoint, path)
    exported, network = OnnxNetwork(path), network_of(checkpoint)
    context_length = checkpoint.config.context_length
    for batch, time in ((1, 1), (1, 24), (3, 7), (5, 2)):
        ids = torch.randint(len(VOCABULARY), (batch, min(time, context_length)))
        with torch.inference_mode():
            torch.testing.assert_close(exported(ids), network(ids), atol=1e-4, rtol=1e-4)
    metadata = exported.session.get_modelmeta().custom_metadata_map
    assert metadata == {"vocabulary": VOCABULARY, "context_length": str(context_length)}
    facts = json.loads(facts_path(path).read_text("utf-8"))
    assert facts["vocabulary"] == [*VOCABULARY]
    assert facts["context_length"] == context_length
    assert sorted(tmp_path.glob("*onnx*")) == [path, facts_path(path)]


@pytest.mark.usefixtures("onnxruntime")
def test_a_past_is_not_read_again_and_wrong_ids_are_refused(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, previous_characters=2)
    write_onnx(checkpoint, path := tmp_path / "model.onnx")
    run = OnnxNetwork(path).session.run
    empty = np.zeros(json.loads(facts_path(path).read_text("utf-8"))["past_shape"], np.float32)
    ids = np.random.default_rng(0).integers(len(VOCABULARY), size=(1, 24))
    whole, _ = run(None, {"ids": ids, "past_key_values": empty})
    past, begin = empty, 0
    for end in (5, 6, 9, 24):
        logits, past = run(None, {"ids": ids[:, :end], "past_key_values": past})
        np.testing.assert_allclose(logits, whole[:, begin:end], atol=1e-4, rtol=1e-4)
        begin = end
    for wrong in ([1, -1], [-16, 1], [16], [*range(14), *range(11)]):  # 25 are too many
        with pytest.raises(Exception, match=r"out of data bounds|invalid index"):
            run(None, {"ids": [wrong], "past_key_values": empty})


@pytest.mark.usefixtures("onnxruntime")
def test_8_bits_are_smaller_and_nearly_the_same(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, d_model=128, num_layers=1)
    write_onnx(checkpoint, tmp_path / "exact")
    write_onnx(checkpoint, tmp_path / "rounded", "int8")
    exact, rounded = (tmp_path / "exact").stat().st_size, (tmp_path / "rounded").stat().st_size
    assert rounded < 0.4 * exact
    ids = torch.randint(len(VOCABULARY), (2, 24))
    first, second = (OnnxNetwork(tmp_path / name)(ids) for name in ("exact", "rounded"))
    assert 0 < float((first - second).abs().mean()) < 0.1 * float(first.std())


def test_a_missing_package_is_named_with_the_line_that_adds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # which makes importing it fail
    with pytest.raises(UserError, match=r"needs onnx: pip install 'shakespeare-lm\[onnx\]'"):
        write_onnx(random_checkpoint(tmp_path), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
