"""A model and the form that it was exported to -> their losses, beside other models.

Enters: a checkpoint. Leaves: what the form costs, measured on the whole validation part, or a
warning if there is no text to measure it on.
"""

import sys
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from torch import nn

from shakespeare_lm.checkpoint.card import corpus_name
from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.commands.progress_bar import progress_bar
from shakespeare_lm.data.corpus import NAMED_CORPORA
from shakespeare_lm.data.documents import Documents, encode_documents
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.baselines import PUBLISHED, counted
from shakespeare_lm.evaluation.evaluation import encode
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.evaluation.split_corpus import SplitCorpus

_ORDER = 7  # of the n-gram model that losses are compared with


class ExportedLosses(NamedTuple):
    """Mean losses over the validation part in blocks of the context, in nats per character.

    Args:
        model: as the checkpoint has it.
        exported: as the form has it; the model's if it changes nothing.
        others: of other models, by name.
        corpus: the name of the text.
        is_own: whether it is the text that the model was trained on, with the same split.
    """

    model: float
    exported: float
    others: dict[str, float]
    corpus: str
    is_own: bool


def measure_exported(
    checkpoint: Checkpoint, corpus: str | None, exported: nn.Module | None = None
) -> ExportedLosses | None:
    """Return the losses; None, with a warning on stderr, if there is no text to measure them on.

    Args:
        checkpoint: of the model.
        corpus: another one than the checkpoint names.
        exported: computes what the form computes, if that is not the same.
    """
    try:
        split = SplitCorpus(checkpoint, corpus)
        text = encode(split.documents("val"), checkpoint.tokenizer)
    except (UserError, OSError) as error:
        print(f"warning: val_loss is not measured: {error}", file=sys.stderr)
        return None
    if split.difference is not None:
        print(f"warning: {split.difference}", file=sys.stderr)
    context_length = checkpoint.config.context_length
    model = _val_loss(checkpoint.network(), text, context_length)
    theirs = model if exported is None else _val_loss(exported, text, context_length)
    published = split.is_published_split(NAMED_CORPORA["tinyshakespeare"].sha256)
    others = {PUBLISHED[0].name: PUBLISHED[0].nats} if published else {}
    name = "tiny Shakespeare" if published else PurePath(corpus or corpus_name(checkpoint)).name
    own = split.difference is None
    return ExportedLosses(model, theirs, others | _ngram(split), name, own)


def _val_loss(network: nn.Module, text: Documents, context_length: int) -> float:
    with progress_bar("measuring val_loss") as progress:
        losses = character_losses(network.eval(), text, context_length, progress=progress)
    return float(np.nanmean(losses))


def _ngram(split: SplitCorpus) -> dict[str, float]:
    tokenizer = CharTokenizer.from_text(*split.parts.train, *split.parts.val)
    train, val = (encode_documents(part, tokenizer) for part in split.parts[:2])
    try:
        with progress_bar("counting n-grams") as progress:
            models = {
                one.name: one.nats
                for one in counted(train, val, len(tokenizer.vocabulary), progress)
            }
    except UserError as error:  # the memory: the rest is worth having without it
        print(f"warning: without n-gram models: {error}", file=sys.stderr)
        return {}
    name = f"{_ORDER}-gram"
    return {name: models[name]}


def print_cost(losses: ExportedLosses | None, form: str) -> None:
    """Say on stderr what the form costs, if it was measured."""
    if losses is not None:
        print(
            f"val_loss {losses.model:.4f}; {form} {losses.exported:.4f} "
            f"({losses.exported - losses.model:+.5f})",
            file=sys.stderr,
        )


def trained_on(checkpoint: Checkpoint, losses: ExportedLosses | None) -> str:
    """Return the name of the text that the model was trained on."""
    return losses.corpus if losses and losses.is_own else corpus_name(checkpoint)


def measured_on(losses: ExportedLosses) -> str:
    """Return what losses were measured on, for a table."""
    known = "" if losses.is_own else ", which is not known to be the text it was trained on"
    return f"the validation part of {losses.corpus}{known}"
