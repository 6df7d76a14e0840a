"""How fast the device multiplies large matrices: the ceiling that a training step is held against.

Enters: a network's shape. Leaves: floating-point operations, per second at best and per character.
"""

import torch
from torch import nn

from .timing import repeated

_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
_REPEATS = 5


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of the fastest of a few large dense products."""
    sizes = _SIZES.get(device.type, _SIZES["cpu"])
    return max(_matmul_flops(size, device, dtype) for size in sizes)


def _matmul_flops(size: int, device: torch.device, dtype: torch.dtype) -> float:
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    product = torch.empty_like(left)
    steps = 1 if device.type == "cpu" else 20  # a GPU's are short against waiting for it
    seconds = repeated(lambda: torch.mm(left, right, out=product), steps, _REPEATS, device)
    return 2 * size**3 / seconds.median


def training_flops_per_character(
    network: nn.Module, num_layers: int, context_length: int, d_model: int
) -> int:
    """Return the operations that forward and backward need for one character.

    6 for each weight of a linear layer (a multiplication and an addition, three times: forward,
    gradient of the inputs, gradient of the weights), and for attention
    6 * num_layers * context_length * d_model: half of what the full square of positions would take,
    because a character looks only at itself and those before it. Looking up embeddings is free, and
    the optimizer's own arithmetic is not counted.
    """
    linears = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    matmul_parameters = sum(layer.weight.numel() for layer in linears)
    return 6 * matmul_parameters + 6 * num_layers * context_length * d_model
