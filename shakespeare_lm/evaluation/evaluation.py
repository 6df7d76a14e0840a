"""A checkpoint and a corpus -> how good the model is.

Enters: a checkpoint, and the corpus and split that it was trained on, or another. Leaves: an
`Evaluation`: exact, over the whole part, the same each time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.documents import Documents, encode_documents
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.breakdown import Breakdown, break_down
from shakespeare_lm.evaluation.copying import Copying, SampleConfig, measure_copying
from shakespeare_lm.evaluation.losses import Nats, character_losses
from shakespeare_lm.evaluation.split_corpus import PartName, SplitCorpus
from shakespeare_lm.hardware import choose_device
from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.methods.ngram_memory import NGramMemory

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
        breakdown: where the loss is, if it was asked for.
        copying: whether the model copies its training part, if it was asked for.
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
    breakdown: Breakdown | None = field(default=None, repr=False)
    copying: Copying | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The folder of the run, or the path of a checkpoint that is not the best of a run."""
        path = Path(self.checkpoint)
        best_of_run = path.parts[-2:] == ("checkpoints", "best.ckpt")
        return str(path.parents[1] if best_of_run else path)

    @property
    def agrees(self) -> bool | None:
        """Whether the stored loss is the recomputed one up to 1e-5; None without a stored one."""
        if self.stored_val_loss is None:
            return None
        return abs(self.stored_val_loss - self.block_nats) <= _AGREEMENT_NATS


def evaluate(
    checkpoint: Checkpoint,
    path: str | Path,
    corpus: SplitCorpus,
    part: PartName = "val",
    *,
    stride: int | None = None,
    device: str = "cpu",
    breakdown: bool = False,
    copying: SampleConfig | None = None,
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
        breakdown: say also where the loss is.
        copying: look also whether samples like these are copied from the training part; the
            validation part is the yardstick if the training part itself is evaluated.
        progress: is called with the numbers of characters done, and in all.

    Raises:
        UserError: for a character outside the vocabulary, an empty part, or a value out of range.
    """
    documents, context_length = corpus.documents(part), checkpoint.config.context_length
    encoded = encode(documents, checkpoint.tokenizer)
    network = _network(checkpoint, device)
    stride = max(1, context_length // _WINDOWS_PER_CONTEXT) if stride is None else stride
    stored, precision = _stored_validation(checkpoint)
    comparable = part == "val" and corpus.difference is None
    bfloat16 = precision == "bf16-mixed"
    remembered = isinstance(network, MemoryTransformer) and _is_text_of(network.ngrams, encoded)
    blocks, sliding = (
        character_losses(network, encoded, context_length, step, fast, remembered, progress)
        for step, fast in ((None, bfloat16), (stride, False))
    )
    copied = None
    if copying is not None:
        completer = Completer(network, checkpoint.tokenizer, context_length)
        held_out = corpus.documents("val" if part == "train" else part)
        copied = measure_copying(completer, corpus.parts.train, held_out, copying, progress)
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
        breakdown=break_down(documents, blocks, context_length) if breakdown else None,
        copying=copied,
    )


def _is_text_of(ngrams: NGramMemory, encoded: Documents) -> bool:
    """Return whether the n-grams were counted in these documents."""
    return torch.equal(ngrams.lengths.cpu(), encoded.lengths) and torch.equal(
        ngrams.text.cpu().long(), encoded.ids.long()
    )


def _network(checkpoint: Checkpoint, device: str) -> nn.Module:
    return checkpoint.network().to(choose_device(device)).eval()


def encode(documents: list[str], tokenizer: CharTokenizer) -> Documents:
    """Encode a part with a model's tokenizer.

    Raises:
        UserError: for a character that the model does not know.
    """
    if unknown := set().union(*documents) - set(tokenizer.vocabulary):
        one = min(unknown)
        raise UserError(
            f"the text has characters that the model does not know, such as {one!r} "
            f"(U+{ord(one):04X}): choose another corpus"
        )
    return encode_documents(documents, tokenizer)


def _stored_validation(checkpoint: Checkpoint) -> tuple[float | None, str]:
    """Return the loss that training wrote beside these weights, and its precision."""
    stored = checkpoint.content.get("validation")
    loss = stored.get("val_loss") if isinstance(stored, dict) else None
    precision = stored.get("precision") if isinstance(stored, dict) else None
    valid = isinstance(loss, float) and math.isfinite(loss)
    return (loss if valid else None), str(precision)[:20]
