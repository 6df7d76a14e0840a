"""The options of distillation -> teachers: n-grams of the training part, and trained models.

Enters: the options, and the network that is to be taught. Leaves: its teachers, on its device.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pytorch_lightning import Trainer
from torch import nn

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.distillation import NetworkTeacher, NGramTeacher, Teacher
from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.methods.networks import Network
from shakespeare_lm.methods.ngram_memory import NGramMemory
from shakespeare_lm.training.config import ModelConfig
from shakespeare_lm.training.filled_memory import remember_training_part

T = TypeVar("T")

# The order that predicts tiny Shakespeare best.
_ORDER = 7


def teachers_of(
    config: ModelConfig, network: Network, tokenizer: CharTokenizer, trainer: Trainer
) -> list[Teacher]:
    """Return the teachers of a training.

    Args:
        config: its options.
        network: that is to be taught; a memory of it teaches in place of new n-grams.
        tokenizer: of the network.
        trainer: whose device and training part they are for.

    Raises:
        UserError: if the Trainer has no data module of this project, or a model does not fit.
    """
    teachers: list[Teacher] = []
    device = trainer.strategy.root_device
    if config.ngram_distillation:
        if isinstance(network, MemoryTransformer):
            ngrams = network.ngrams
        else:
            ngrams = NGramMemory(tokenizer.vocab_size, _ORDER).to(device)
            remember_training_part(ngrams, trainer)
        teachers.append(NGramTeacher(config.ngram_distillation, ngrams))
    if networks := load_teachers(config, tokenizer):
        networks = [network.to(device) for network in networks]
        teachers.append(NetworkTeacher(config.distillation, networks))
    return teachers


def teacher_paths(teachers: str) -> list[Path]:
    """Return the checkpoints of the teachers that an option names.

    Raises:
        UserError: if the folder of a run has none.
    """
    return [_named(path.strip(), find_checkpoint) for path in teachers.split(",")]


def load_teachers(config: ModelConfig, tokenizer: CharTokenizer) -> list[nn.Module]:
    """Return the networks that are to teach one with these options.

    Raises:
        UserError: if one cannot be read, or has other characters or a shorter context.
    """
    paths = teacher_paths(config.teachers) if config.teachers else []
    return [_load(str(path), config, tokenizer) for path in paths]


def _load(path: str, config: ModelConfig, tokenizer: CharTokenizer) -> nn.Module:
    checkpoint = _named(path, read_checkpoint)
    if checkpoint.tokenizer.vocabulary != tokenizer.vocabulary:
        raise UserError(f"the teacher {path} has other characters than this run's text")
    theirs, ours = checkpoint.config.context_length, config.context_length
    if checkpoint.config.network == "transformer" and theirs < ours:
        raise UserError(
            f"the teacher {path} has a context_length of {theirs}: expected at least {ours}, as "
            "this run has"
        )
    return checkpoint.network()


def _named(path: str, find: Callable[[str], T]) -> T:
    """Return what is found at a path, or an error that says that it is a teacher's."""
    try:
        return find(path)
    except UserError as error:
        raise UserError(f"the teacher {path}: {error}") from None
