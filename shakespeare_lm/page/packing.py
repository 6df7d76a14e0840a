"""weights -> bytes for a page: matrices in 8 bits, vectors in float32, the text of an n-gram memory
as it is. `weights.js` reads them.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shakespeare_lm.kernels.int8 import LARGEST, row_scales

Scales = Callable[[Tensor], Tensor]


class Packed(NamedTuple):
    """Weights as a page holds them."""

    data: bytes  # of a matrix: the scale of each row, in float32, little-endian; then the integers
    manifest: dict[str, Any]  # the name, shape and first byte of each tensor; size and checksum
    rounded: dict[str, Tensor]  # the weights that the page will compute with


def pack(weights: Mapping[str, Tensor], scales: Scales = row_scales) -> Packed:
    """Round each row of a matrix to at most 255 steps of the size that `scales` returns, by default
    so that all are used; vectors and integers stay as they are.
    """
    data, tensors, rounded = bytearray(), [], {}
    for name, tensor in weights.items():
        entry = {"name": name, "shape": list(tensor.shape), "start": len(data)}
        if not tensor.is_floating_point():
            entry["integer_bytes"] = 1 if tensor.dtype == torch.uint8 else 4
        tensors.append(entry)
        packed, rounded[name] = _packed(tensor.detach().cpu(), scales)
        data += packed
    manifest = {"bytes": len(data), "crc32": zlib.crc32(data), "tensors": tensors}
    return Packed(bytes(data), manifest, rounded)


def _packed(tensor: Tensor, scales: Scales) -> tuple[bytes, Tensor]:
    """Return a tensor's bytes, and what a page reads from them."""
    if not tensor.is_floating_point():
        kind = "u1" if tensor.dtype == torch.uint8 else "<u4"
        return tensor.numpy().astype(kind).tobytes(), tensor
    values = tensor.float()
    if values.ndim == 1:
        return _bytes(values), values
    steps, integers = round_rows(values, scales)
    return _bytes(steps) + integers.numpy().tobytes(), steps[:, None] * integers.float()


def round_rows(matrix: Tensor, scales: Scales = row_scales) -> tuple[Tensor, Tensor]:
    """Return scales `[rows]` and integers `[rows, columns]`, whose product is near the matrix."""
    steps = scales(matrix)
    integers = (matrix / steps[:, None]).round().clamp(-LARGEST, LARGEST)
    return steps, integers.to(torch.int8)


def _bytes(values: Tensor) -> bytes:
    return values.numpy().astype("<f4").tobytes()
