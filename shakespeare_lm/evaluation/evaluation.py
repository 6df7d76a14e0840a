"""A checkpoint and a corpus -> how good the model is.

Enters: a checkpoint, and the corpus and split that it was trained on, or another. Leaves: an
`Evaluation`: exact, over the whole part, the same each time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.data.corpus import load_corpus
from shakespeare_lm.data.documents import Documents, encode_documents
from shakespeare_lm.data.splits import (
    Parts,
    SplitConfig,
    describe_difference,
    fingerprint,
    split_documents,
)
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError, check_choice
from shakespeare_lm.evaluation.losses import Nats, character_losses
from shakespeare_lm.hardware import choose_device
from shakespeare_lm.network.build import build_network

PartName = Literal["train", "val", "test"]
# The context window moves on by an eighth of itself, which takes eight times as long as blocks do.
_WINDOWS_PER_CONTEXT = 8
_AGREEMENT_NATS = 1e-5


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on one part of a corpus.

    Args:
        checkpoint: its path.
        part: of the corpus: train, val or test.
        characters: how many were predicted.
        block_nats: the mean loss in separate blocks of the context, as in `val_loss`.
        sliding_nats: the mean loss when the context moves on by `stride` characters.
        stride: of the sliding window, in characters.
        stored_val_loss: what training wrote into the checkpoint, if this is the same part of the
            same text.
        warning: how the text differs from that of the training, if it does.
        losses: of every character in blocks, `[characters]`; NaN where nothing is predicted.
    """

    checkpoint: str
    part: PartName
    characters: int
    block_nats: float
    sliding_nats: float
    stride: int
    stored_val_loss: float | None
    warning: str | None
    losses: Nats = field(repr=False, compare=False)

    @property
    def agrees(self) -> bool | None:
        """Whether the stored loss is the recomputed one up to 1e-5; None without a stored one."""
        if self.stored_val_loss is None:
            return None
        return abs(self.stored_val_loss - self.block_nats) <= _AGREEMENT_NATS


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
        documents = load_corpus(names)
        context_length = checkpoint.config.context_length
        seed = int(stored.get("seed", 0))
        self.parts: Parts = split_documents(documents, self.split, context_length, seed)
        self.difference = describe_difference(
            stored or None, fingerprint(documents, self.split, context_length, seed)
        )

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


def evaluate(
    checkpoint: Checkpoint,
    path: str | Path,
    corpus: SplitCorpus,
    part: PartName = "val",
    stride: int | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compute the loss of a model over a whole part, in blocks and with a sliding window.

    Args:
        checkpoint: of the model.
        path: of the checkpoint.
        corpus: what it is evaluated on.
        part: of the corpus.
        stride: how far the window moves on; an eighth of the context by default, 1 is exact.
        device: cpu, cuda, mps or auto.
        progress: is called with the numbers of characters done, and in all.

    Raises:
        UserError: for a character outside the vocabulary, an empty part, or a value out of range.
    """
    network = build_network(checkpoint.tokenizer.vocab_size, checkpoint.config, initialise=False)
    network.load_state_dict(checkpoint.weights)
    network.to(choose_device(device)).eval()
    encoded = encode(corpus.documents(part), checkpoint.tokenizer)
    context_length = checkpoint.config.context_length
    stride = max(1, context_length // _WINDOWS_PER_CONTEXT) if stride is None else stride
    stored, precision = _stored_validation(checkpoint)
    comparable = part == "val" and corpus.difference is None
    bfloat16 = precision == "bf16-mixed"
    blocks = character_losses(network, encoded, context_length, None, bfloat16, progress)
    sliding = character_losses(network, encoded, context_length, stride, progress=progress)
    return Evaluation(
        checkpoint=str(path),
        part=part,
        characters=int(np.isfinite(blocks).sum()),
        block_nats=float(np.nanmean(blocks)),
        sliding_nats=float(np.nanmean(sliding)),
        stride=stride,
        stored_val_loss=stored if comparable else None,
        warning=corpus.difference,
        losses=blocks,
    )


def encode(documents: list[str], tokenizer: CharTokenizer) -> Documents:
    """Encode a part with a model's tokenizer.

    Raises:
        UserError: for a character that the model does not know.
    """
    for document in documents:
        if unknown := set(document) - set(tokenizer.vocabulary):
            tokenizer.encode(min(unknown))  # which names it
    return encode_documents(documents, tokenizer)


def _data_state(checkpoint: Checkpoint) -> dict[str, Any]:
    state = checkpoint.content.get("ShakespeareDataModule")
    return state if isinstance(state, dict) else {}


def _stored_validation(checkpoint: Checkpoint) -> tuple[float | None, str]:
    """Return the loss that training wrote beside these weights, and its precision."""
    stored = checkpoint.content.get("validation")
    loss = stored.get("val_loss") if isinstance(stored, dict) else None
    precision = stored.get("precision") if isinstance(stored, dict) else None
    valid = isinstance(loss, float) and math.isfinite(loss)
    return (loss if valid else None), str(precision)[:20]
