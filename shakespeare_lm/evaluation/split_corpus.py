"""A checkpoint -> the corpus that it was trained on, divided as it was then.

Enters: a checkpoint, and maybe another corpus. Leaves: a `SplitCorpus`, and in what it differs from
the text of the training.
"""

import warnings
from hashlib import sha256
from typing import Any, Literal, get_args

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.data.corpus import load_corpus
from shakespeare_lm.data.splits import (
    Parts,
    SplitConfig,
    describe_difference,
    fingerprint,
    split_documents,
)
from shakespeare_lm.errors import UserError, check_choice

PartName = Literal["train", "val", "test"]


class SplitCorpus:
    """The corpus of a checkpoint, or another, divided as the checkpoint says.

    Args:
        checkpoint: names corpus and split.
        corpus: another corpus, with the same split.

    Raises:
        UserError: if the checkpoint names no corpus and none is given, or it cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint, corpus: str | None = None) -> None:
        stored = _data_state(checkpoint)
        names = corpus if corpus is not None else stored.get("corpus")
        if not names:
            raise UserError("the checkpoint does not name its corpus: give one with --corpus")
        options = {name: stored[name] for name in SplitConfig.__annotations__ if name in stored}
        self.split = SplitConfig(**options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            documents = load_corpus(names)
        context_length = checkpoint.config.context_length
        seed = int(stored.get("seed", 0))
        self.parts: Parts = split_documents(documents, self.split, context_length, seed)
        self.difference = describe_difference(
            stored or None, fingerprint(documents, self.split, context_length, seed)
        )
        if self.difference and caught:  # another text takes the place of a missing one
            self.difference += f" ({caught[0].message})"

    def is_published_split(self, text_sha256: str) -> bool:
        """Whether it is the last tenth of the text with this checksum, which published figures are
        on.
        """
        text = "".join(document for part in self.parts for document in part)
        published = SplitConfig(split="contiguous", val_fraction=0.1, test_fraction=0.0)
        return self.split == published and sha256(text.encode()).hexdigest() == text_sha256

    def documents(self, part: PartName) -> list[str]:
        """Return the documents of a part.

        Raises:
            UserError: if the split leaves it empty.
        """
        check_choice("part", part, get_args(PartName))
        found: list[str] = getattr(self.parts, part)
        if not any(len(document) > 1 for document in found):
            fraction = f"{part}_fraction"
            given = f"{fraction} is {getattr(self.split, fraction, 1.0)}"
            raise UserError(f"the {part} part is empty: {given}; choose another --part")
        return found


def _data_state(checkpoint: Checkpoint) -> dict[str, Any]:
    state = checkpoint.content.get("ShakespeareDataModule")
    return state if isinstance(state, dict) else {}
