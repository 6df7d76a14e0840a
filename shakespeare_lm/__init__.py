"""A small causal transformer that learns Shakespeare character by character.

    text -> tokenizer -> windows -> batches -> transformer -> loss -> checkpoint -> completion

The public names are imported on first use, so that completing a text does not import Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shakespeare_lm.completion.activations import patched, run_with_cache
    from shakespeare_lm.completion.completer import Completer
    from shakespeare_lm.data.datamodule import ShakespeareDataModule
    from shakespeare_lm.data.tokenizer import CharTokenizer
    from shakespeare_lm.data.windows import Batch
    from shakespeare_lm.errors import UserError
    from shakespeare_lm.evaluation.attention_weights import attention_weights
    from shakespeare_lm.methods.objective import Objective, TrainingStep
    from shakespeare_lm.model.bigram import BigramTable
    from shakespeare_lm.model.config import NetworkConfig
    from shakespeare_lm.model.network import Network
    from shakespeare_lm.model.transformer import CausalTransformer
    from shakespeare_lm.training.module import ShakespeareLM
    from shakespeare_lm.training.stopping import ValidationSteps

_MODULE_OF = {
    "Batch": "data.windows",
    "BigramTable": "model.bigram",
    "CausalTransformer": "model.transformer",
    "CharTokenizer": "data.tokenizer",
    "Completer": "completion.completer",
    "Network": "model.network",
    "NetworkConfig": "model.config",
    "Objective": "methods.objective",
    "ShakespeareDataModule": "data.datamodule",
    "ShakespeareLM": "training.module",
    "TrainingStep": "methods.objective",
    "UserError": "errors",
    "ValidationSteps": "training.stopping",
    "attention_weights": "evaluation.attention_weights",
    "patched": "completion.activations",
    "run_with_cache": "completion.activations",
}

__all__ = [
    "Batch",
    "BigramTable",
    "CausalTransformer",
    "CharTokenizer",
    "Completer",
    "Network",
    "NetworkConfig",
    "Objective",
    "ShakespeareDataModule",
    "ShakespeareLM",
    "TrainingStep",
    "UserError",
    "ValidationSteps",
    "attention_weights",
    "patched",
    "run_with_cache",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
