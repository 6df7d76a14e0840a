"""A checkpoint -> the corpus that it was trained on, or another, split as in its training."""

import warnings
from hashlib import sha256
from typing import Any, Literal, get_args

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.data import splits
from shakespeare_lm.data.corpus import load_corpus
from shakespeare_lm.errors import UserError, check_choice

PartName = Literal["train", "val", "test"]


class SplitCorpus:
    """The parts of a corpus; `difference` says how it differs from the text of the training.

    Raises:
        UserError: if the checkpoint names no corpus and none is given, or it cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint, corpus: str | None = None) -> None:
        state = checkpoint.content.get("ShakespeareDataModule")
        stored: dict[str, Any] = state if isinstance(state, dict) else {}
        names = corpus if corpus is not None else stored.get("corpus")
        if not names:
            raise UserError("the checkpoint does not name its corpus: give one with --corpus")
        options = splits.SplitConfig.__annotations__.keys() & stored.keys()
        self.split = splits.SplitConfig(**{name: stored[name] for name in options})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            documents = load_corpus(names)
        given = documents, self.split, checkpoint.config.context_length, int(stored.get("seed", 0))
        self.parts = splits.split_documents(*given)
        self.difference = splits.describe_difference(stored or None, splits.fingerprint(*given))
        if self.difference and caught:  # another text takes the place of a missing one
            self.difference += f" ({caught[0].message})"

    def is_published_split(self, text_sha256: str) -> bool:
        """Whether the split is that of published figures: the last tenth of this very text."""
        text = "".join(document for part in self.parts for document in part)
        published = splits.SplitConfig(split="contiguous", val_fraction=0.1, test_fraction=0.0)
        return self.split == published and sha256(text.encode()).hexdigest() == text_sha256

    def documents(self, part: PartName) -> list[str]:
        """Return the documents of a part; a part with nothing to predict is refused."""
        check_choice("part", part, get_args(PartName))
        found: list[str] = getattr(self.parts, part)
        if not any(len(document) > 1 for document in found):
            name = f"{part}_fraction"
            given = f"{name} is {getattr(self.split, name, 1.0)}"
            raise UserError(f"the {part} part is empty: {given}; choose another --part")
        return found
