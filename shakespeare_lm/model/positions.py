"""Inside the transformer: where in the context each character is.

Enters: embeddings, and their positions. Leaves: embeddings with a position vector added, or the
rotation that attention applies to queries and keys. Sinusoidal: Vaswani et al. 2017, "Attention Is
All You Need", section 3.5; rotary: Su et al. 2021, "RoFormer", equation 34.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from shakespeare_lm.errors import UserError

PositionKind = Literal["sinusoidal", "learned", "rotary"]


class Positioned(NamedTuple):
    """What the first block gets: embeddings, and what every attention layer needs besides them.

    `x` is `[batch, time, d_model]`; `rotation` holds rows of `rotary_table` or is None; `mask` is
    as for `CausalSelfAttention`.
    """

    x: Tensor
    rotation: Tensor | None
    mask: Tensor | None


def position_table(kind: PositionKind, length: int, d_model: int, num_heads: int) -> Tensor:
    """Return the table with one row per position; for "learned", one that is still to be filled."""
    if kind == "rotary":
        return rotary_table(length, d_model // num_heads)
    if kind == "sinusoidal":
        return sinusoidal_table(length, d_model)
    return torch.empty(length, d_model)


def apply_positions(
    kind: PositionKind, table: Tensor, x: Tensor, at: slice | Tensor, mask: Tensor | None
) -> Positioned:
    """Tell the network where each of the embeddings `[batch, time, d_model]` is.

    Args:
        kind: sinusoidal and learned positions are added here, rotary ones in the attention layers.
        table: of `position_table`.
        x: the embeddings.
        at: their positions: a slice that holds for all rows, or indices `[batch, time]`.
        mask: which positions may be attended to; a scheme that acts on the attention scores would
            return another one.
    """
    if kind == "rotary":
        return Positioned(x, table[:, at].unsqueeze(-3), mask)  # the same for all heads
    return Positioned(x + table[at], None, mask)


def sinusoidal_table(length: int, d_model: int) -> Tensor:
    """Return the table `[length, d_model]`: sines in even columns, cosines in odd columns.

    Raises:
        UserError: if `d_model` is odd: sines and cosines come in pairs.
    """
    if d_model % 2:
        raise UserError(f"d_model is {d_model}: sinusoidal positions need an even number")
    if _has_sizes_only():
        return torch.empty(length, d_model)
    angles = _angles(length, d_model)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).float()


def rotary_table(length: int, head_dim: int) -> Tensor:
    """Return cosines and sines of the rotation at each position, `[2, length, head_dim / 2]`.

    Raises:
        UserError: if `head_dim` is odd: the rotation works on pairs.
    """
    if head_dim % 2:
        raise UserError(f"d_model / num_heads is {head_dim}: rotary positions need an even number")
    if _has_sizes_only():
        return torch.empty(2, length, head_dim // 2)
    angles = _angles(length, head_dim)
    return torch.stack((angles.cos(), angles.sin())).float()


def _angles(length: int, width: int, base: float = 10_000.0) -> Tensor:
    """Return position / base^(2i / width), `[length, width / 2]`, in float64."""
    frequencies = base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.arange(length, dtype=torch.float64)[:, None] * frequencies


def _has_sizes_only() -> bool:
    """Return whether tensors are made on the meta device, as to check the sizes in a checkpoint.

    Computing there makes torch 2.13 import its compiler, which takes a second.
    """
    return torch.get_default_device().type == "meta"


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate queries or keys `[batch, heads, time, head_dim]` by the angles of their positions.

    `rotation` holds the rows of `rotary_table` for these positions. Pair i is column i of the first
    half and column i of the second half. The dot product of a rotated query and a rotated key
    depends only on the distance between their positions.
    """
    cos, sin = rotation.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
