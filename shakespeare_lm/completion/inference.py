"""Running a network for its output alone, and leaving it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from shakespeare_lm.errors import UserError


def check_all_finite(is_finite: Tensor) -> None:
    """Raise a `UserError` unless all of this is True: which results of a network are finite."""
    if not is_finite.all():
        raise UserError(
            "the network computes non-finite numbers (NaN or infinity), because its weights are "
            "too large or damaged: choose another checkpoint"
        )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation mode without gradients, and restore its mode afterwards."""
    training = network.training
    if training:
        network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            network.train()
