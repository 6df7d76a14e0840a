"""Lines of the validation part that each validation shows something about: always the same ones.

Enters: the Trainer. Leaves: lines that the model has not seen in training.
"""

from pytorch_lightning import Trainer

from shakespeare_lm.data.documents import Documents
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.tokenizer import CharTokenizer

_SEARCHED_CHARACTERS = 16_384
_SHORTEST_LINE = 20


def validation_loader(trainer: Trainer) -> WindowLoader | None:
    """Return the loader of the validation part; None if the Trainer was given another kind."""
    loaders = trainer.val_dataloaders
    first = loaders[0] if isinstance(loaders, list) else loaders
    return first if isinstance(first, WindowLoader) else None


def long_lines(documents: Documents, tokenizer: CharTokenizer, count: int) -> list[str]:
    """Return at most `count` long lines, evenly spaced in the first pages of a text; if there is
    none, its beginning.
    """
    text = tokenizer.decode(documents.ids[:_SEARCHED_CHARACTERS].tolist())
    lines = [line for line in text.split("\n") if len(line) >= _SHORTEST_LINE]
    return lines[:: max(1, len(lines) // count)][:count] or [text[:_SHORTEST_LINE]]
