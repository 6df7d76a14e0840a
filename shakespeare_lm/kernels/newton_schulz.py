"""The Newton-Schulz iteration of Muon (Jordan 2024), for many matrices at once."""

import torch
from torch import Tensor

from shakespeare_lm.hardware import has_fast_bfloat16
from shakespeare_lm.kernels.plain import PLAIN

# Of the quintic with the steepest slope at zero (Jordan 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return matrices `[count, rows, columns]` with all singular values near 1 (0.7 to 1.2).

    Five steps (Jordan 2024, "Muon: an optimizer for hidden layers in neural networks"), in bfloat16
    where that is fast: a direction need not be exact.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    fast = has_fast_bfloat16(x.device.type) and "muon" not in PLAIN
    x = x.bfloat16() if fast else x.float()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
