"""Linear layers with 8-bit weights: completing one text reads all weights for every character, and
a quarter of the bytes of float32 is read in less time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.kernels.plain import PLAIN

# More rows than this are multiplied faster by torch's product in bfloat16.
MOST_ROWS = 4
# torch's product (2.13) reads as many columns at once, beyond the end of others: twice the 16 of
# AVX-512, to be safe.
_COLUMNS = 32
LARGEST = 127


class Int8Linear(nn.Module):
    """Replaces a linear layer whose `in_features` are a multiple of 32; its weights become
    `scales[row] * integers[row, column]`, with integers from -127 to 127.
    """

    integers: Tensor
    scales: Tensor
    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        assert linear.in_features % _COLUMNS == 0
        weight = linear.weight.detach().float()
        self.register_buffer("scales", row_scales(weight).bfloat16())
        steps = weight / self.scales.float()[:, None]
        self.register_buffer("integers", steps.round().clamp(-LARGEST, LARGEST).to(torch.int8))
        # The same weights in bfloat16, for many rows.
        rounded = self.integers.float() * self.scales.float()[:, None]
        self.register_buffer("weight", rounded.bfloat16())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., in_features]` to `[..., out_features]`, in bfloat16."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > MOST_ROWS or "int8" in PLAIN:
            return F.linear(x, self.weight, self.bias)
        # torch 2.11 to 2.15 have no public name for this product.
        product = torch._weight_int8pack_mm(rows.contiguous(), self.integers, self.scales)
        product = product if self.bias is None else product + self.bias
        return product.reshape(*x.shape[:-1], -1)


def row_scales(weight: Tensor) -> Tensor:
    """Return the quantisation step of each row of a matrix, `[rows]`: its largest weight is 127
    steps; for a row of zeros, any step will do.
    """
    return weight.abs().amax(dim=1).clamp(min=1e-12) / LARGEST


def quantise(network: nn.Module) -> None:
    """Replace the linear layers of a network in bfloat16 on a CPU by `Int8Linear`, where their
    `in_features` are a multiple of 32.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.Linear) and child.in_features % _COLUMNS == 0:
            setattr(network, name, Int8Linear(child))
        else:
            quantise(child)
