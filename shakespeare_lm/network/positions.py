"""Inside the transformer: tells each character where in its window it stands.

Enters: a length. Leaves: a table with one row per position. Sinusoids are added to the embeddings
(Vaswani et al. 2017, "Attention Is All You Need", section 3.5); rotations turn queries and keys
instead (Su et al. 2021, "RoFormer", equation 34). Learned positions are an ordinary parameter of
the transformer.
"""

import torch
from torch import Tensor

from shakespeare_lm.errors import UserError


def _angles(length: int, width: int, base: float = 10_000.0) -> Tensor:
    """Return position / base^(2i / width), `[length, width / 2]`, in double precision."""
    frequencies = base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.arange(length, dtype=torch.float64)[:, None] * frequencies


def sinusoidal_table(length: int, d_model: int) -> Tensor:
    """Return the table `[length, d_model]`: sines in the even columns, cosines in the odd ones.

    Raises:
        UserError: for an odd `d_model`, which cannot hold pairs of sine and cosine.
    """
    if d_model % 2:
        raise UserError(f"d_model is {d_model}: sinusoidal positions need an even number")
    angles = _angles(length, d_model)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).float()


def rotary_table(length: int, head_dim: int) -> Tensor:
    """Return cosines and sines of the rotation of each position, `[2, length, head_dim / 2]`.

    Raises:
        UserError: for an odd `head_dim`, which cannot be split into pairs.
    """
    if head_dim % 2:
        raise UserError(f"d_model / num_heads is {head_dim}: rotary positions need an even number")
    angles = _angles(length, head_dim)
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn queries or keys `[batch, heads, time, head_dim]` by their positions' angles.

    `table` holds the rows of `rotary_table` for these positions. Pair i is made of column i of the
    first half and column i of the second. The product of a turned query and a turned key depends on
    the distance of their positions alone.
    """
    cos, sin = table.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
