"""A checkpoint -> the corpus that it was trained on, or another, split as in its training."""

import re
import shlex
import warnings
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal, get_args

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.data import splits
from shakespeare_lm.data.corpus import NAMED_CORPORA, load_corpus
from shakespeare_lm.errors import UserError, check_choice

PartName = Literal["train", "val", "test"]

_NAMED = [[name] for name in ("auto", "sample", *NAMED_CORPORA)]
# Glob patterns, which can match the whole disk, and Windows' paths of other machines.
_FAR = re.compile(r"[*?\[]|^[\\/]{2}")


def own_names(stored: dict[str, Any]) -> list[str]:
    """Return the names of the corpus that a checkpoint was trained on. They can come from anybody:
    only files of exactly these names are read, and `SplitCorpus` uses them only if the checkpoint
    has the checksum of their text, so that nobody learns what else is on this disk.
    """
    names: list[str] = stored.get("corpus") or []
    if not names:
        raise UserError("the checkpoint does not name its corpus: give one with --corpus")
    if any(map(_FAR.search, names)):
        raise _untrusted(names, "a pattern, or a path into the network, is not looked up")
    return names


def _untrusted(names: Sequence[str], reason: str) -> UserError:
    given = shlex.quote(names[0]) if len(names) == 1 else "..."
    return UserError(
        f"the checkpoint names its corpus, {str(names)[:80]}, but {reason}: if you want to use it, "
        f"add --corpus {given[:200]}"
    )


class SplitCorpus:
    """The parts of the corpus that the user gave, or else of the one that a checkpoint names;
    `difference` says how it differs from the text of the training.

    Raises:
        UserError: if none is given, and the checkpoint names none that can be trusted; or if it
            cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint, corpus: str | None = None) -> None:
        stored = checkpoint.trained_on
        names = own_names(stored) if corpus is None else corpus
        options = splits.SplitConfig.__annotations__.keys() & stored.keys()
        self.split = splits.SplitConfig(**{name: stored[name] for name in options})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            documents = load_corpus(names)
        given = documents, self.split, checkpoint.config.context_length, stored.get("seed", 0)
        self.parts = splits.split_documents(*given)
        self.difference = splits.describe_difference(stored or None, splits.fingerprint(*given))
        if self.difference and corpus is None and names not in _NAMED:
            raise _untrusted(names, "it is not the text of the training any more")
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
