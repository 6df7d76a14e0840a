"""Dropout (Srivastava et al. 2014): random values are zeroed in training, so that the network does
not rely on a few, and the others scaled up to keep the mean.
"""

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from shakespeare_lm.kernels.plain import PLAIN

_BITS = 16


def apply_dropout(x: Tensor, fraction: float, training: bool) -> Tensor:
    """Zero each value with probability `fraction` and divide the others by `1 - fraction`.

    Args:
        x: of any shape and device.
        fraction: 0 <= fraction < 1; on a CPU, where it is rounded to a multiple of 1 / 65,536.
        training: False returns `x` itself.
    """
    if not (training and fraction):
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling() or "dropout" in PLAIN:
        return F.dropout(x, fraction)
    # torch draws a random number per value on one thread: 5 ns each (torch 2.13, a step of recipe
    # `notebook` draws 6 million per layer). Four values share one here, 16 bits each.
    keep = _random_bits(x) >= _threshold(fraction)
    return x * keep.to(x.dtype).div_(1 - fraction)


def _random_bits(x: Tensor) -> Tensor:
    """Return integers of `_BITS` bits, uniform over all of them, in the shape of `x`."""
    words = torch.empty(-(-x.numel() * _BITS // 64), dtype=torch.int64)
    return words.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)


def _threshold(fraction: float) -> int:
    lowest, numbers = -(2 ** (_BITS - 1)), 2**_BITS
    # A fraction just below 1 would round to a number that no 16 bits hold.
    return min(lowest + round(fraction * numbers), lowest + numbers - 1)


def seed_dropout(where: str, device: torch.device) -> None:
    """Seed the generators of the CPU and of the training's device for one step, so that a resumed
    run repeats its dropout: checkpoints hold no random state. `where` names the step by the run's
    seed, epoch, batch and rank.
    """
    seed = random.Random(f"dropout {where}").getrandbits(63)
    # Not `torch.manual_seed`, which takes a millisecond: it records who called it.
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
