"""weights -> bytes for a page: matrices in 8 bits, vectors in float32. `weights.js` reads them."""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shakespeare_lm.kernels.int8 import LARGEST, row_scales


class Packed(NamedTuple):
    """Weights as a page holds them."""

    data: bytes  # of a matrix: the scale of each row, in float32, little-endian; then the integers
    manifest: dict[str, Any]  # the name, shape and first byte of each tensor; size and checksum
    rounded: dict[str, Tensor]  # the weights that the page will compute with


def pack(weights: Mapping[str, Tensor]) -> Packed:
    """Round each row of a matrix to 255 steps of the row's own size; vectors stay as they are."""
    data, tensors, rounded = bytearray(), [], {}
    for name, tensor in weights.items():
        tensors.append({"name": name, "shape": list(tensor.shape), "start": len(data)})
        values = tensor.detach().cpu().float()
        if values.ndim == 1:
            data += _bytes(values)
            rounded[name] = values
            continue
        scales, integers = round_rows(values)
        data += _bytes(scales) + integers.numpy().tobytes()
        rounded[name] = scales[:, None] * integers.float()
    manifest = {"bytes": len(data), "crc32": zlib.crc32(data), "tensors": tensors}
    return Packed(bytes(data), manifest, rounded)


def round_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales `[rows]` and integers `[rows, columns]`, whose product is near the matrix."""
    scales = row_scales(matrix)
    integers = (matrix / scales[:, None]).round().clamp(-LARGEST, LARGEST)
    return scales, integers.to(torch.int8)


def _bytes(values: Tensor) -> bytes:
    return values.numpy().astype("<f4").tobytes()
