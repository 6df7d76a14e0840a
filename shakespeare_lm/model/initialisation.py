"""The initial weights, and which layers write to the residual stream."""

import math

from torch import nn


class ResidualProjection(nn.Linear):
    """The last linear layer of a sub-layer, whose output is added to the residual stream.

    A class of its own so that `initialise_weights` finds these layers, whoever builds them.
    """


def initialise_weights(network: nn.Module, num_layers: int, zero_init: bool) -> None:
    """Draw matrices from a normal distribution of standard deviation 0.02, and zero all biases.

    Residual projections are drawn smaller, by sqrt(2 * num_layers), because their outputs add up
    (GPT-2: Radford et al. 2019, section 2.3); with `zero_init` they are zero (as in Zhang et al.
    2019, "Fixup").
    """
    residual_std = 0.0 if zero_init else 0.02 / math.sqrt(2 * num_layers)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    residual = {layer.weight for layer in layers if isinstance(layer, ResidualProjection)}
    for parameter in network.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=residual_std if parameter in residual else 0.02)
    for layer in layers:
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
