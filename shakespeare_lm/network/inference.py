"""Running a network: compiled in training, and for its output alone without leaving a trace."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.network.transformer import CausalTransformer


def compile_blocks(network: nn.Module) -> None:
    """Compile the blocks of a transformer with torch.compile, when they are first called.

    They are alike, so that one compilation serves all.

    Raises:
        UserError: if the network has no blocks.
    """
    if not isinstance(network, CausalTransformer):
        raise UserError("compile is true, which needs a transformer: leave it out for the bigram")
    for block in network.blocks:
        block.compile()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation mode without gradients, and restore its mode afterwards.

    Compiled blocks run as they are written: shapes change from call to call, and hooks are heard.
    """
    training = network.training
    if training:
        network.eval()
    try:
        with torch.inference_mode(), _as_written(network):
            yield
    finally:
        if training:
            network.train()


def _as_written(network: nn.Module) -> AbstractContextManager[object]:
    compiled = isinstance(network, CausalTransformer) and network.blocks[0]._compiled_call_impl
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
