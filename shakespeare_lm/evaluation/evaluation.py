"""A checkpoint and a corpus -> exact losses over a whole part of the corpus, and the model's rank
among baselines.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shakespeare_lm.checkpoint.ensemble import joint_network
from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.predictor import sliding_stride
from shakespeare_lm.completion.scoring import perplexity
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents, encode_documents
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.adaptation import Adaptation, adapt
from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.breakdown import Breakdown, break_down
from shakespeare_lm.evaluation.copying import Copying, SampleConfig, measure_copying
from shakespeare_lm.evaluation.losses import Nats, character_losses
from shakespeare_lm.evaluation.split_corpus import PartName, SplitCorpus
from shakespeare_lm.hardware import choose_device

_AGREEMENT_NATS = 1e-5


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on one part of a corpus."""

    checkpoint: str  # its path, or those of an ensemble, as `model_name` gives them
    part: PartName
    characters: int  # how many were predicted
    block_nats: float  # the mean loss in disjoint blocks of the context, as in `val_loss`
    sliding_nats: float  # the mean loss in sliding windows
    stride: int  # of the sliding windows, in characters
    stored_val_loss: float | None  # from training, if this is the same part of the same text
    warning: str | None  # how the text differs from that of the training, if it does
    # Of every character in blocks, `[characters]`; NaN where nothing is predicted.
    losses: Nats = field(repr=False, compare=False)
    breakdown: Breakdown | None = field(default=None, repr=False)
    copying: Copying | None = field(default=None, repr=False)
    adaptation: Adaptation | None = None

    @property
    def name(self) -> str:
        """The folder of the run, or the path of a checkpoint that is not the best of a run."""
        return re.sub(r"[\\/]checkpoints[\\/]best\.ckpt(?=, |$)", "", self.checkpoint)

    @property
    def agrees(self) -> bool | None:
        """Whether the stored loss is the recomputed one up to 1e-5; None without a stored one."""
        if self.stored_val_loss is None:
            return None
        return abs(self.stored_val_loss - self.block_nats) <= _AGREEMENT_NATS


def evaluate(
    checkpoint: Checkpoint | Sequence[Checkpoint],
    path: str | Path,
    corpus: SplitCorpus,
    part: PartName = "val",
    *,
    stride: int | None = None,
    device: str = "cpu",
    breakdown: bool = False,
    copying: SampleConfig | None = None,
    adaptive: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compute the loss of a model over a whole part, in disjoint blocks and in sliding windows.

    Args:
        checkpoint: the model; several, of the same characters, are an ensemble.
        path: of the checkpoint, for its name; of an ensemble, its `model_name`.
        corpus: the text.
        part: of the corpus.
        stride: of the sliding windows: an eighth of the context by default; 1 is exact.
        device: where to compute.
        breakdown: whether to say where the loss is.
        copying: samples to compare with the training part, if any; with the validation part as the
            yardstick where the training part itself is evaluated.
        adaptive: whether to measure, too, a copy of the model that learns from what it has read.
        progress: called with the numbers of characters done, and in all.

    Raises:
        UserError: for a character outside the vocabulary, an empty part, or a value out of range.
    """
    members = [checkpoint] if isinstance(checkpoint, Checkpoint) else checkpoint
    documents, tokenizer = corpus.documents(part), members[0].tokenizer
    encoded = encode(documents, tokenizer)
    network = joint_network(members).to(choose_device(device)).eval()
    context_length = network.config.context_length
    stride = sliding_stride(context_length) if stride is None else stride
    stored, bfloat16 = _stored_validation(members)
    comparable = part == "val" and corpus.difference is None
    blocks, sliding = (
        character_losses(network, encoded, context_length, step, fast, progress)
        for step, fast in ((None, bfloat16), (stride, False))
    )
    copied = None
    if copying is not None:
        completer = Completer(network, tokenizer, context_length)
        held_out = corpus.documents("val" if part == "train" else part)
        copied = measure_copying(completer, corpus.parts.train, held_out, copying, progress)
    adaptation = None
    if adaptive:
        num_characters = len(tokenizer.vocabulary)
        adaptation = adapt(
            network, documents, encoded, context_length, num_characters, sliding, progress
        )
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
        adaptation=adaptation,
    )


def encode(documents: list[str], tokenizer: CharTokenizer) -> Documents:
    """Encode a part with a model's tokenizer; a `UserError` names an unknown character."""
    if unknown := set().union(*documents) - set(tokenizer.vocabulary):
        first = min(unknown)
        raise UserError(
            f"the text has characters that the model does not know, such as {first!r} "
            f"(U+{ord(first):04X}): choose another corpus"
        )
    return encode_documents(documents, tokenizer)


def _stored_validation(members: Sequence[Checkpoint]) -> tuple[float | None, bool]:
    """Return the `val_loss` stored with these weights, and whether it was computed in bfloat16."""
    stored = members[0].content.get("validation") if len(members) == 1 else None
    if not isinstance(stored, dict):
        return None, False
    loss = stored.get("val_loss")
    valid = isinstance(loss, float) and math.isfinite(loss)
    return loss if valid else None, stored.get("precision") == "bf16-mixed"


def notes(evaluation: Evaluation) -> list[str]:
    """Return the caveats of an evaluation."""
    found, stored = [], evaluation.stored_val_loss
    if evaluation.warning is not None:
        found.append(f"not the data of its training: {evaluation.warning}")
    if evaluation.agrees:
        found.append(f"its stored val_loss, {stored:.6f}, is the same")
    elif evaluation.agrees is False:
        found.append(
            f"its stored val_loss is {stored:.6f}, recomputed {evaluation.block_nats:.6f}: "
            "another device or precision"
        )
    return found


@dataclass(frozen=True, order=True)
class Row:
    """A model and its loss."""

    nats: float  # per character
    name: str  # a baseline, or the run or checkpoint of an evaluated model
    note: str  # how the loss was computed, or its source
    evaluated: bool  # False for a baseline

    @property
    def bits(self) -> float:
        """Bits per character."""
        return self.nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """The number of equally likely characters that would be as hard to predict."""
        return perplexity(self.nats)


def ranked(evaluations: Iterable[Evaluation], baselines: Iterable[Baseline]) -> list[Row]:
    """Return all models, the best first; an evaluated one has two rows, and two if it adapts."""
    rows = [Row(model.nats, model.name, model.note, False) for model in baselines]
    for model in evaluations:
        rows.append(Row(model.block_nats, model.name, "in blocks of the context", True))
        sliding = f"sliding window, {model.stride} new characters each"
        rows.append(Row(model.sliding_nats, model.name, sliding, True))
        if adaptation := model.adaptation:
            alone, mixed = (
                "adaptive: learns while it reads",
                "adaptive, with n-grams of what it read",
            )
            rows.append(Row(adaptation.network_nats, model.name, alone, True))
            rows.append(Row(adaptation.nats, model.name, mixed, True))
    return sorted(rows)
