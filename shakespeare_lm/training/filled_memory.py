"""The training part -> the n-gram model of a network that has a memory, or of a teacher.

Enters: a Trainer with its data module. Leaves: n-grams of the training part only.
"""

from pytorch_lightning import Trainer

from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.methods.networks import Network
from shakespeare_lm.methods.ngram_memory import NGramMemory


def fill_memory(network: Network, trainer: Trainer) -> None:
    """Let a network remember the training part, if it has a memory."""
    if isinstance(network, MemoryTransformer):
        remember_training_part(network.ngrams, trainer)


def remember_training_part(ngrams: NGramMemory, trainer: Trainer) -> None:
    """Let an n-gram model remember the training part of the Trainer's data module.

    Raises:
        UserError: if the Trainer has no data module of this project.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ShakespeareDataModule):
        raise UserError("n-grams of the training part need a ShakespeareDataModule to count it")
    part = data.encoded["train"]
    ngrams.remember(part.ids, part.lengths)
