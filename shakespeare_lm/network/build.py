"""hyperparameters -> network: the one place that decides between transformer and bigram table.

Training and completion both come through here, so a checkpoint always yields the network that was
trained.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.network.bigram import BigramTable
from shakespeare_lm.network.transformer import CausalTransformer

Network = Literal["transformer", "bigram"]

# Everything that shapes the weights, as named in the hyperparameters.
NETWORK_OPTIONS = (
    "network",
    "vocabulary",
    *(name for name in inspect.signature(CausalTransformer).parameters if name != "vocab_size"),
)


def build_network(hyperparameters: Mapping[str, Any]) -> CausalTransformer | BigramTable:
    """Return a freshly initialised network.

    Raises:
        UserError: for values that make no network.
        KeyError: if one of `NETWORK_OPTIONS` is missing.
    """
    options = {name: hyperparameters[name] for name in NETWORK_OPTIONS}
    _check_types(options)
    vocab_size = CharTokenizer(options.pop("vocabulary")).vocab_size
    if options.pop("network") == "bigram":
        return BigramTable(vocab_size)
    return CausalTransformer(vocab_size, **options)


def _check_types(options: Mapping[str, Any]) -> None:
    """Refuse values of other types than the classes are annotated with: they can come from a file.

    Raises:
        UserError: naming the first.
    """
    hints = {"network": Network, "vocabulary": str, **get_type_hints(CausalTransformer.__init__)}
    for name, value in options.items():
        hint = hints[name]
        choices = get_args(hint) or (hint,)
        if get_origin(hint) is Literal:
            fits = value in choices
        else:
            types = (*choices, int) if float in choices else choices
            fits = type(value) in types  # not isinstance: True is no size
        if not fits:
            accepted = ", ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
            raise UserError(f"{name} is {str(value)[:80]!r}: accepted is {accepted}")
