"""A checkpoint -> an ONNX file, for programs without Python or torch, with a key-value cache.

`ids` `[batch, time]` is always the whole window. `past_key_values` is of its first `past`
characters, which may be none; `logits` `[batch, time - past, vocab]` are those of the others, and
`present_key_values` is the next call's past. A JSON file beside it has the vocabulary and the shape
of an empty past.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.errors import UserError, import_extra, one_line
from shakespeare_lm.model.network import Network

OnnxFormat = Literal["float32", "int8"]
_OPSET = 20
_EXTRA = ("onnx", "exporting to ONNX")


def write_onnx(
    checkpoint: Checkpoint,
    path: Path,
    dtype: OnnxFormat = "float32",
    check: Callable[[Path], None] = lambda path: None,
) -> None:
    """Write the file and, at `facts_path`, the JSON file; with dtype int8, where matrices have one
    scale per column, it is about a quarter of the size. `check` gets the file before it is moved to
    `path`, and may refuse it.

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
        vocabulary, context_length = checkpoint.tokenizer.vocabulary, config.context_length
        metadata = {"vocabulary": vocabulary, "context_length": str(context_length)}
        onnx.helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        onnx.save(model, exported)
        (facts := Path(folder) / "model.json").write_text(json.dumps({
            "vocabulary": [*vocabulary], "context_length": context_length,
            "past_shape": _past_shape(checkpoint, 1, 0),
        }), encoding="utf-8")  # fmt: skip
        check(exported)
        _move({facts: facts_path(path), exported: path})


def facts_path(path: Path) -> Path:
    """Return where the JSON file beside an ONNX file is."""
    return path.with_name(f"{path.name}.json")


def _move(targets: dict[Path, Path]) -> None:
    """Move all files, or none."""
    with ExitStack() as undone:
        for source, target in targets.items():
            source.replace(target)
            undone.callback(target.unlink)
        undone.pop_all()


def _past_shape(checkpoint: Checkpoint, batch: int, past: int) -> list[int]:
    """Return the shape of `past_key_values`; `[0]` for a network without a cache."""
    config = checkpoint.config
    if config.network != "transformer":
        return [0]
    return [config.num_layers, 2, batch, config.num_heads, past, config.head_dim]


def _export(checkpoint: Checkpoint, path: Path) -> None:
    # Of the axes that vary, none is 0 or 1 here, and no two are equal: else they would be constant.
    batch, past, time = 2, 4, 4 + min(3, checkpoint.config.context_length)
    shape = _past_shape(checkpoint, batch, past)
    inputs = torch.zeros((batch, time), dtype=torch.long), torch.zeros(shape)
    axes = {"ids": {0: "batch", 1: "time"}, "past_key_values": {2: "batch", 4: "past"}}
    if len(shape) == 1:
        axes["past_key_values"] = {}
    with _quiet():
        torch.onnx.export(
            _Graph(checkpoint.network()).eval(), inputs, path, dynamo=True, external_data=False,
            input_names=list(axes), output_names=["logits", "present_key_values"],
            dynamic_shapes=axes, opset_version=_OPSET, verbose=False,
        )  # fmt: skip


class _Graph(nn.Module):
    """The network with an explicit mask: the fused attention's own depends on the number of
    characters, and cannot be exported.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, past_key_values: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        # ONNX counts negative ids from the end; one that is too large is refused.
        ids = torch.where(ids < 0, network.vocab_size, ids)
        if past_key_values.ndim == 1:
            return network(ids, torch.ones_like(ids, dtype=torch.bool)), past_key_values.clone()
        past = _GivenPast(ids, past_key_values, network)
        logits = network(ids[:, past_key_values.shape[4] :], past=past)
        return logits, torch.stack(past.present)


class _GivenPast:
    """A `Past` of keys and values that are an input, `[layers, 2, batch, heads, past, head_dim]`;
    `present` are those of all ids, per layer.
    """

    def __init__(self, ids: Tensor, keys_values: Tensor, network: Network) -> None:
        known, time = keys_values.shape[4], ids.shape[1]
        self.keys_values, self.present = keys_values, list[Tensor]()
        self.recent = F.pad(ids, (network.lookback, 0), value=network.padding_id)[:, known:]
        self.positions = torch.arange(known, time)
        self.mask = (torch.arange(time) <= self.positions[:, None])[None, None]

    def extend(self, layer: int, keys_values: Tensor) -> Tensor:
        self.present.append(torch.cat((self.keys_values[layer], keys_values), dim=3))
        return self.present[-1]


def _quantised(path: Path) -> Path:
    import_extra("onnxruntime", *_EXTRA)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name("int8.onnx")
    with _quiet():
        quantize_dynamic(path, target, per_channel=True, weight_type=QuantType.QInt8)
    return target


class OnnxNetwork(nn.Module):
    """An ONNX file as a network; a `UserError` if onnxruntime is missing. The first half of a text
    is read at once, the rest one character at a time with the cache, as a program does.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        onnxruntime = import_extra("onnxruntime", *_EXTRA)
        self.session = onnxruntime.InferenceSession(str(path))
        self.unused = nn.Parameter(torch.zeros(0))  # says that it is on the CPU

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`."""
        batch, time = ids.shape
        declared = self.session.get_inputs()[1].shape
        shape = [{"batch": batch, "past": 0}.get(size, size) for size in declared]
        past, parts = np.zeros(shape, np.float32), list[np.ndarray]()
        for end in range(-(-time // 2), time + 1):
            feeds = {"ids": ids[:, :end].numpy().astype(np.int64), "past_key_values": past}
            logits, past = self.session.run(None, feeds)
            parts.append(logits[:, -1:] if parts else logits)
        return torch.from_numpy(np.concatenate(parts, axis=1))


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
