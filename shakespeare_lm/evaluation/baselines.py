"""A split corpus -> what a model has to be compared with.

Enters: the training part, and another part. Leaves: `Baseline`s on the same characters: models that
only count, compressors, and what others have published for the validation part of tiny Shakespeare.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from shakespeare_lm.data.documents import Documents
from shakespeare_lm.evaluation.compression import COMPRESSORS, Compressor, added_bits, ppmd
from shakespeare_lm.evaluation.ngram import NGramModel, Progress

MAX_ORDER = 8
_ADAPTIVE = "adaptive: learns while it reads"


@dataclass(frozen=True)
class Baseline:
    """What another model needs for the same characters.

    Args:
        name: of the model.
        nats: per character.
        note: what is to be known about it, with the source of a published figure.
    """

    name: str
    nats: float
    note: str = ""


# On the validation part of tiny Shakespeare (the last tenth), in nats per character.
PUBLISHED = (
    Baseline("nanoGPT, 10.65 M, 3 min of an A100", 1.4697, "its README; 200 random batches"),
    Baseline("nanoGPT, 10.65 M, five seeds", 1.4655, "AI-Scientist's logs; +- 0.0027"),
    Baseline("nanoGPT's laptop recipe, 0.8 M", 1.8857, "its train.py, measured on the whole part"),
)


def counted(
    train: Documents, part: Documents, vocab_size: int, progress: Progress | None = None
) -> Iterator[Baseline]:
    """Yield the uniform model, and n-gram models that were counted on the training part.

    Args:
        train: the training part.
        part: what they are evaluated on.
        vocab_size: the number of different characters.
        progress: is called with the numbers of orders counted, and of all.

    Raises:
        UserError: if the training part is too long for this machine's memory.
    """
    yield Baseline("uniform", math.log(vocab_size), "every character equally likely")
    model = NGramModel(*_arrays(train), vocab_size, MAX_ORDER, progress)
    predicted = _predicted(part)
    for order, values in enumerate(model.log_probabilities(*_arrays(part)), start=1):
        name = "unigram" if order == 1 else f"{order}-gram"
        note = "how often characters occur" if order == 1 else "modified Kneser-Ney"
        yield Baseline(name, float(-values[predicted].mean()), note)


def compressed(train: Iterable[str], part: Iterable[str]) -> Iterator[Baseline]:
    """Yield general compressors that have read the training part."""
    known, text = "".join(train), "".join(part)
    for name, compressor in _compressors().items():
        bits = added_bits(compressor, known.encode(), text.encode())
        yield Baseline(name, bits * math.log(2) / len(text), _ADAPTIVE)


def _compressors() -> dict[str, Compressor]:
    strongest = ppmd()
    return COMPRESSORS if strongest is None else {**COMPRESSORS, "PPMd": strongest}


def verdict(nats: float, ngrams: Iterable[Baseline]) -> str:
    """Return where a loss lies among those of n-gram models, in one line."""
    models = sorted((one for one in ngrams if one.name.endswith("-gram")), key=lambda one: one.nats)
    better = [one for one in models if one.nats < nats]
    worse = [one for one in models if one.nats >= nats]
    if not models:
        return f"{nats:.4f} nats per character"
    if not better:
        return f"{nats:.4f}: better than every n-gram; the best is {_named(models[0])}"
    if not worse:
        return f"{nats:.4f}: worse than {_named(better[-1])}"
    return f"{nats:.4f}: better than {_named(worse[0])}, worse than {_named(better[-1])}"


def _named(model: Baseline) -> str:
    article = "an" if model.name.startswith("8") else "a"
    return f"{article} {model.name} ({model.nats:.4f})"


def _arrays(documents: Documents) -> tuple[np.ndarray, list[int]]:
    return documents.ids.numpy().astype(np.int64), documents.lengths.tolist()


def _predicted(documents: Documents) -> np.ndarray:
    """Return True for all characters but the first of each document."""
    lengths = documents.lengths.numpy()
    mask = np.ones(len(documents.ids), dtype=bool)
    mask[(lengths.cumsum() - lengths)[lengths > 0]] = False
    return mask
