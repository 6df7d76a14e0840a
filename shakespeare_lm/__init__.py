"""A small causal transformer that learns Shakespeare character by character.

    text -> tokenizer -> chunks -> batches -> transformer -> loss -> checkpoint -> completion

The names below are imported on first use, so that completing a text never pays for importing
Lightning.
"""

from importlib import import_module

_HOME_OF = {
    "CharTokenizer": "data.tokenizer",
    "ShakespeareDataModule": "data.datamodule",
    "CausalTransformer": "network.transformer",
    "BigramTable": "network.bigram",
    "ShakespeareLM": "training.module",
    "Completer": "completion.completer",
    "UserError": "errors",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
