"""The options of distillation -> teachers: n-grams of the training part, and trained models.

Enters: the options, and the network that is to be taught. Leaves: its teachers, on its device.
"""

from pytorch_lightning import Trainer

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.network.build import Network, build_network
from shakespeare_lm.network.memory import NGramMemory
from shakespeare_lm.network.memory_transformer import MemoryTransformer
from shakespeare_lm.training.config import ModelConfig
from shakespeare_lm.training.distillation import NetworkTeacher, NGramTeacher, Teacher
from shakespeare_lm.training.filled_memory import remember_training_part

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
    if config.teachers:
        paths = config.teachers.split(",")
        networks = [load_teacher(path.strip(), config, tokenizer).to(device) for path in paths]
        teachers.append(NetworkTeacher(config.distillation, list(networks)))
    return teachers


def load_teacher(path: str, config: ModelConfig, tokenizer: CharTokenizer) -> Network:
    """Return the network of a checkpoint or run that can teach one with these options.

    Raises:
        UserError: if there is none, or it has other characters or a shorter context.
    """
    checkpoint = read_checkpoint(find_checkpoint(path))
    if checkpoint.tokenizer.vocabulary != tokenizer.vocabulary:
        raise UserError(f"the teacher {path} has other characters than this run's text")
    theirs, ours = checkpoint.config.context_length, config.context_length
    if checkpoint.config.network == "transformer" and theirs < ours:
        raise UserError(
            f"the teacher {path} has a context_length of {theirs}: expected at least {ours}, as "
            "this run has"
        )
    network = build_network(tokenizer.vocab_size, checkpoint.config, initialise=False)
    network.load_state_dict(checkpoint.weights)
    return network
