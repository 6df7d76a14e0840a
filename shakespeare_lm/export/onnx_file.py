"""A checkpoint -> an ONNX file, for programs without Python or torch.

Enters: a checkpoint. Leaves: one file that maps `ids` `[batch, time]` to `logits`
`[batch, time, vocab]`, for any batch and any time up to the context length. Its metadata have the
vocabulary.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.errors import import_extra

OnnxFormat = Literal["float32", "int8"]
_OPSET = 20


def write_onnx(checkpoint: Checkpoint, path: Path, dtype: OnnxFormat = "float32") -> None:
    """Write the file.

    Args:
        checkpoint: of the model.
        path: of the file, which is only there when it is whole.
        dtype: of the matrices: int8 is a quarter of the size, with one scale per column.

    Raises:
        UserError: if a package is missing.
    """
    onnx = import_extra("onnx", "onnx", "exporting to ONNX")
    import_extra("onnxscript", "onnx", "exporting to ONNX")
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        exported = Path(folder) / "model.onnx"
        _export(checkpoint, exported)
        if dtype == "int8":
            exported = _quantised(exported)
        model = onnx.load(exported)
        onnx.helper.set_model_props(
            model,
            {
                "vocabulary": checkpoint.tokenizer.vocabulary,
                "context_length": str(checkpoint.config.context_length),
            },
        )
        onnx.checker.check_model(model)
        onnx.save(model, exported)
        exported.replace(path)


def _export(checkpoint: Checkpoint, path: Path) -> None:
    config = checkpoint.config
    # A batch or a time of 1 would become a constant.
    time = min(config.context_length, 8)
    ids = torch.zeros((2, time), dtype=torch.long)
    batch = torch.export.Dim("batch", min=1)
    axes = {0: batch}
    if time > 2:  # a context of 1 or 2 characters has one shape
        axes[1] = torch.export.Dim("time", min=2, max=config.context_length)
    with _quiet():
        torch.onnx.export(
            _Logits(checkpoint.network()).eval(), (ids,), path, dynamo=True, external_data=False,
            input_names=["ids"], output_names=["logits"], dynamic_shapes={"ids": axes},
            opset_version=_OPSET, verbose=False,
        )  # fmt: skip


class _Logits(nn.Module):
    """The network with one input, and an explicit mask: that of the fused attention, which depends
    on the number of characters, cannot be exported.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.network(ids, torch.ones_like(ids, dtype=torch.bool))
        return logits


def _quantised(path: Path) -> Path:
    import_extra("onnxruntime", "onnx", "exporting to ONNX")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name("int8.onnx")
    with _quiet():
        quantize_dynamic(path, target, per_channel=True, weight_type=QuantType.QInt8)
    return target


class OnnxNetwork(nn.Module):
    """An ONNX file as a network, to measure its loss.

    Args:
        path: of the file.

    Raises:
        UserError: if onnxruntime is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = import_extra("onnxruntime", "onnx", "exporting to ONNX").InferenceSession(
            str(path)
        )
        self.unused = nn.Parameter(torch.zeros(0))  # says that it is on the CPU

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`."""
        (logits,) = self.session.run(None, {"ids": ids.numpy().astype(np.int64)})
        return torch.from_numpy(logits)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from reporting what users cannot act on."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
