"""A checkpoint -> an ONNX file, for programs without Python or torch: it maps `ids` `[batch, time]`
to `logits` `[batch, time, vocab]`, for any batch and any time up to the context length, and holds
the vocabulary as metadata.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.errors import UserError, import_extra, one_line

OnnxFormat = Literal["float32", "int8"]
_OPSET = 20
_EXTRA = ("onnx", "exporting to ONNX")


def write_onnx(
    checkpoint: Checkpoint,
    path: Path,
    dtype: OnnxFormat = "float32",
    check: Callable[[Path], None] = lambda path: None,
) -> None:
    """Write the file; with dtype int8, where matrices have one scale per column, it is about a
    quarter of the size. `check` gets the file before it is moved to `path`, and may refuse it.

    Raises:
        UserError: if a package is missing, or the network cannot be traced.
    """
    onnx, _ = (import_extra(name, *_EXTRA) for name in ("onnx", "onnxscript"))
    config = checkpoint.config
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:50]}.") as folder:
        exported = Path(folder) / "model.onnx"
        try:
            _export(checkpoint, exported)
        except Exception as error:
            if config.network in ("transformer", "bigram"):
                raise
            reason = one_line(error)[:200]
            raise UserError(f"ONNX cannot hold {config.network}: {reason}") from error
        if dtype == "int8":
            exported = _quantised(exported)
        model = onnx.load(exported)
        context_length = str(config.context_length)
        metadata = {"vocabulary": checkpoint.tokenizer.vocabulary, "context_length": context_length}
        onnx.helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        onnx.save(model, exported)
        check(exported)
        exported.replace(path)


def _export(checkpoint: Checkpoint, path: Path) -> None:
    context_length = checkpoint.config.context_length
    # A batch or a time of 1 would become a constant.
    ids = torch.zeros((2, min(context_length, 8)), dtype=torch.long)
    axes = {0: torch.export.Dim("batch", min=1)}
    if context_length > 2:  # a context of 1 or 2 characters has one shape
        axes[1] = torch.export.Dim("time", min=2, max=context_length)
    with _quiet():
        torch.onnx.export(
            _Logits(checkpoint.network()).eval(), (ids,), path, dynamo=True, external_data=False,
            input_names=["ids"], output_names=["logits"], dynamic_shapes={"ids": axes},
            opset_version=_OPSET, verbose=False,
        )  # fmt: skip


class _Logits(nn.Module):
    """The network with an explicit mask: the fused attention's own depends on the number of
    characters, and cannot be exported.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor) -> Tensor:
        return self.network(ids, torch.ones_like(ids, dtype=torch.bool))


def _quantised(path: Path) -> Path:
    import_extra("onnxruntime", *_EXTRA)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name("int8.onnx")
    with _quiet():
        quantize_dynamic(path, target, per_channel=True, weight_type=QuantType.QInt8)
    return target


class OnnxNetwork(nn.Module):
    """An ONNX file as a network; a `UserError` if onnxruntime is missing."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        onnxruntime = import_extra("onnxruntime", *_EXTRA)
        self.session = onnxruntime.InferenceSession(str(path))
        self.unused = nn.Parameter(torch.zeros(0))  # says that it is on the CPU

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`."""
        (logits,) = self.session.run(None, {"ids": ids.numpy().astype(np.int64)})
        return torch.from_numpy(logits)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings, which users cannot act on."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(level)
