"""text -> train, validation and test parts, which share no character to be predicted; and a
fingerprint of text and split, which checkpoints keep.
"""

import hashlib
import random
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

from shakespeare_lm.errors import UserError, check_fraction, check_types

SplitKind = Literal["contiguous", "documents", "random_chunks"]


class Parts(NamedTuple):
    """The documents of each part."""

    train: list[str]
    val: list[str]
    test: list[str]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How a corpus is divided.

    Args:
        split: contiguous (by position: train, then validation, then test), documents (the last
            files as a whole), or random_chunks (neighbouring chunks leak: losses look too good).
        val_fraction: part of the text for validation.
        test_fraction: part of the text for a test after training.

    Raises:
        UserError: if a fraction is out of range, or nothing is left to train on.
    """

    split: SplitKind = "contiguous"
    val_fraction: float = 0.1
    test_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, SplitConfig)
        check_fraction(val_fraction=self.val_fraction, test_fraction=self.test_fraction)
        if self.val_fraction == 0.0:
            reason = "because checkpoints are chosen by val_loss"
            raise UserError(f"val_fraction is 0.0: expected a value > 0, {reason}")
        if self.val_fraction + self.test_fraction >= 1.0:
            raise UserError(
                f"val_fraction is {self.val_fraction} and test_fraction is {self.test_fraction}: "
                "their sum must be less than 1, or nothing is left to train on"
            )


def split_documents(
    documents: Sequence[str], config: SplitConfig, context_length: int, seed: int
) -> Parts:
    """Divide documents as the config says; random chunks depend on context length and seed too.
    A part with nothing to predict is refused with a `UserError`.
    """
    fractions = config.val_fraction, config.test_fraction
    if config.split == "contiguous":
        parts = split_contiguous(documents, *fractions)
    elif config.split == "documents":
        parts = split_whole_documents(documents, *fractions)
    else:
        warnings.warn(
            "split is random_chunks: neighbours of the validation chunks are trained on, so "
            "losses look too good and cannot be compared with those on a contiguous split",
            stacklevel=2,
        )
        parts = split_random_chunks(documents, *fractions, context_length, seed)
    needed = parts if config.test_fraction else parts[:2]
    if not all(any(len(document) > 1 for document in part) for part in needed):
        raise UserError(
            f"the text has {sum(map(len, documents))} characters, too few to split with "
            f"val_fraction {config.val_fraction} and test_fraction {config.test_fraction}: "
            "every part needs at least 2"
        )
    return parts


def fingerprint(
    documents: Sequence[str], config: SplitConfig, context_length: int, seed: int
) -> dict[str, str | float | int]:
    """Return what a loss on the validation part depends on (text and split), as plain values."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{len(document)} ".encode())
        digest.update(document.encode())
    identity = {"text_sha256": digest.hexdigest(), **asdict(config)}
    if config.split == "random_chunks":
        identity |= {"context_length": context_length, "seed": seed}
    return identity


def describe_difference(stored: object, current: dict[str, str | float | int]) -> str | None:
    """Return how a checkpoint's fingerprint differs from this run's, or None if it does not."""
    if not isinstance(stored, dict):
        return "the checkpoint has no fingerprint of its text and split"
    for name, value in current.items():
        if (other := stored.get(name)) == value:
            continue
        if name == "text_sha256":
            return "the checkpoint was trained on another text"
        # Printing nested lists from a hostile file can take forever.
        shown = str(other)[:80] if isinstance(other, str | float | int) else type(other).__name__
        return f"the checkpoint was trained with {name} {shown}, not {value}"
    return None


def split_contiguous(
    documents: Sequence[str], val_fraction: float, test_fraction: float = 0.0
) -> Parts:
    """Cut the whole text by position into train, validation and test, in this order; a document
    that is cut continues in the next part as a document of its own.
    """
    total = sum(map(len, documents))
    # 1e-6: a product that should be an integer, like 100 * (1 - 0.1 - 0.34), can come out just
    # below it.
    test_start = int(total * (1.0 - test_fraction) + 1e-6)
    val_start = int(total * (1.0 - test_fraction - val_fraction) + 1e-6)
    bounds = [(0, val_start), (val_start, test_start), (test_start, total)]
    return Parts(*(_slice(documents, start, end) for start, end in bounds))


def _slice(documents: Sequence[str], start: int, end: int) -> list[str]:
    pieces, position = [], 0
    for document in documents:
        pieces.append(document[max(0, start - position) : max(0, end - position)])
        position += len(document)
    return [piece for piece in pieces if piece]


def split_whole_documents(
    documents: Sequence[str], val_fraction: float, test_fraction: float = 0.0
) -> Parts:
    """Hold out whole documents: the last ones for the test, those before them for validation.

    Each part gets as many documents as come closest to its fraction of all characters, but at least
    one; too few documents for that are refused with a `UserError`.
    """
    num_parts = 3 if test_fraction else 2
    if len(documents) < num_parts:
        raise UserError(
            f"split is documents: the corpus has {len(documents)} document(s), expected at least "
            f"{num_parts}; give several files, or use --data.split contiguous"
        )
    documents, total = list(documents), sum(map(len, documents))
    test_start = len(documents)
    if test_fraction:
        test_start -= _count_from_end(documents[2:], total * test_fraction)
    val_start = test_start - _count_from_end(documents[1:test_start], total * val_fraction)
    return Parts(documents[:val_start], documents[val_start:test_start], documents[test_start:])


def _count_from_end(documents: Sequence[str], characters: float) -> int:
    """Return how many of the last documents, at least one, come closest to so many characters."""
    sizes = [0, *accumulate(map(len, reversed(documents)))]
    return min(range(1, len(sizes)), key=lambda count: abs(sizes[count] - characters))


def split_random_chunks(
    documents: Sequence[str],
    val_fraction: float,
    test_fraction: float,
    context_length: int,
    seed: int,
) -> Parts:
    """Cut documents into chunks of `context_length` predicted characters, and assign them to the
    parts at random.

    Each chunk is a document that starts with the last character of the chunk before it, as context.
    Neighbouring chunks of one scene end up in different parts, so losses are far too good.
    """
    chunks = [
        document[start : start + context_length + 1]
        for document in documents
        for start in range(0, len(document) - 1, context_length)
    ]
    random.Random(seed).shuffle(chunks)
    val_start = round(len(chunks) * test_fraction)
    train_start = val_start + round(len(chunks) * val_fraction)
    return Parts(chunks[train_start:], chunks[val_start:train_start], chunks[:val_start])
