"""The training part -> the n-gram memory of a network that has one.

Enters: a Trainer with its data module. Leaves: a network that remembers the training part, and
nothing of the others.
"""

from pytorch_lightning import Trainer

from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError
from shakespeare_lm.network.build import Network
from shakespeare_lm.network.memory_transformer import MemoryTransformer


def fill_memory(network: Network, trainer: Trainer) -> None:
    """Let a network remember the training part, if it has a memory.

    Raises:
        UserError: if it has one, and the Trainer has no data module of this project.
    """
    if not isinstance(network, MemoryTransformer):
        return
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ShakespeareDataModule):
        raise UserError("a network with a memory needs a ShakespeareDataModule to fill it")
    part = data.encoded["train"]
    network.ngrams.remember(part.ids, part.lengths)
