"""weights -> bytes for a page: matrices in 8 bits, vectors in float32.

Enters: the weights of a network by name. Leaves: bytes, where in them each tensor is, and the
weights that the page will compute with. `weights.js` reads them.
"""

import zlib
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from shakespeare_lm.kernels.int8 import LARGEST, row_scales


class PackedTensor(TypedDict):
    """Where a tensor is: `start` counts bytes."""

    name: str
    shape: list[int]
    start: int


class Packed(NamedTuple):
    """Weights as a page holds them.

    Args:
        data: for each row of a matrix its scale, in float32, little-endian; then its integers.
        tensors: where in the data each tensor is.
        rounded: the weights as the page has them.
    """

    data: bytes
    tensors: list[PackedTensor]
    rounded: dict[str, Tensor]

    @property
    def manifest(self) -> dict[str, object]:
        """What the page needs to unpack them, and to find damage."""
        return {
            "bytes": len(self.data), "crc32": zlib.crc32(self.data), "tensors": self.tensors
        }  # fmt: skip


def pack(weights: Mapping[str, Tensor]) -> Packed:
    """Round each row of each matrix to 255 steps of the row's own size; vectors stay as they are.

    Args:
        weights: vectors and matrices.
    """
    data, tensors, rounded = bytearray(), [], {}
    for name, tensor in weights.items():
        tensors.append(PackedTensor(name=name, shape=list(tensor.shape), start=len(data)))
        values = tensor.detach().cpu().float()
        if values.ndim == 1:
            data += _bytes(values)
            rounded[name] = values
            continue
        scales, integers = round_rows(values)
        data += _bytes(scales) + integers.numpy().tobytes()
        rounded[name] = scales[:, None] * integers.float()
    return Packed(bytes(data), tensors, rounded)


def round_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales `[rows]` and integers `[rows, columns]`: their product is near the matrix."""
    scales = row_scales(matrix)
    integers = (matrix / scales[:, None]).round().clamp(-LARGEST, LARGEST)
    return scales, integers.to(torch.int8)


def _bytes(values: Tensor) -> bytes:
    return values.numpy().astype("<f4").tobytes()
