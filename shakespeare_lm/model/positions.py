"""Inside the transformer: where in the context each character is.

Sinusoidal positions (Vaswani et al. 2017, "Attention Is All You Need", section 3.5) and learned
ones are added to the embeddings; rotary ones (Su et al. 2021, "RoFormer", equation 34) rotate the
queries and keys in each attention layer.
"""

import torch
from torch import Tensor

from shakespeare_lm.errors import UserError
from shakespeare_lm.model.config import PositionKind


def position_table(kind: PositionKind, length: int, d_model: int, num_heads: int) -> Tensor:
    """Return the table with one row per position; for "learned", without initial values."""
    # On the meta device only shapes count, and computing there takes torch 2.13 a second at first.
    if kind == "learned" or torch.get_default_device().type == "meta":
        return torch.empty(length, d_model)
    if kind == "rotary":
        return rotary_table(length, d_model // num_heads)
    return sinusoidal_table(length, d_model)


def apply_positions(
    kind: PositionKind, table: Tensor, x: Tensor, positions: slice | Tensor
) -> tuple[Tensor, Tensor | None]:
    """Tell the network where each of the embeddings is.

    Args:
        kind: sinusoidal and learned positions are added here, rotary ones in the attention layers.
        table: of `position_table`.
        x: the embeddings, `[batch, time, d_model]`.
        positions: of the embeddings: one slice for all rows, or indices `[batch, time]`.

    Returns:
        What the first block reads, and the rotation for the attention layers, or None.
    """
    if kind == "rotary":
        return x, table[:, positions].unsqueeze(-3)  # the same for all heads
    return x + table[positions], None


def sinusoidal_table(length: int, d_model: int) -> Tensor:
    """Return the table `[length, d_model]`: sines in even columns, cosines in odd columns.

    Raises:
        UserError: if `d_model` is odd: sines and cosines come in pairs.
    """
    if d_model % 2:
        raise UserError(f"d_model is {d_model}: sinusoidal positions need an even number")
    angles = _angles(length, d_model)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).float()


def rotary_table(length: int, head_dim: int) -> Tensor:
    """Return cosines and sines of the rotation at each position, `[2, length, head_dim / 2]`.

    Raises:
        UserError: if `head_dim` is odd: the rotation works on pairs.
    """
    if head_dim % 2:
        raise UserError(f"d_model / num_heads is {head_dim}: rotary positions need an even number")
    angles = _angles(length, head_dim)
    return torch.stack((angles.cos(), angles.sin())).float()


def _angles(length: int, width: int) -> Tensor:
    """Return position / 10000^(2i / width), `[length, width / 2]`, in float64."""
    frequencies = 10_000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.arange(length, dtype=torch.float64)[:, None] * frequencies


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate queries or keys `[batch, heads, time, head_dim]` by the angles of their positions.

    `rotation` holds the rows of `rotary_table` for these positions. Pair i is column i of the first
    half and column i of the second half. The dot product of a rotated query and a rotated key
    depends only on the distance between their positions.
    """
    cos, sin = rotation.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
