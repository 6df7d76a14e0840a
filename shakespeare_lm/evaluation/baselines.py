"""Baselines on the same characters: models that only count, compressors, and figures that others
have published for the validation part of tiny Shakespeare.
"""

import bz2
import lzma
import math
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from shakespeare_lm.data.windows import Documents
from shakespeare_lm.methods.ngrams import NGramModel, Progress, first_of_document

MAX_ORDER = 8

Compressor = Callable[[bytes], bytes]

COMPRESSORS: dict[str, Compressor] = {
    "zlib": lambda data: zlib.compress(data, 9),
    "bzip2": lambda data: bz2.compress(data, 9),
    "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
}
# The best order on tiny Shakespeare; enough memory for 100 MB of text.
_PPMD_ORDER = 6
_PPMD_MEMORY_BYTES = 1 << 28


@dataclass(frozen=True)
class Baseline:
    """The loss of another model."""

    name: str
    nats: float  # per character
    note: str = ""  # caveat; source of a published figure


# On the validation part of tiny Shakespeare (the last tenth), in nats per character.
PUBLISHED = (
    Baseline("nanoGPT, 10.65 M, 3 min of an A100", 1.4697, "its README; 200 random batches"),
    Baseline("nanoGPT, 10.65 M, five seeds", 1.4655, "AI-Scientist's logs; +- 0.0027"),
    Baseline("nanoGPT's laptop recipe, 0.8 M", 1.8857, "its train.py, measured on the whole part"),
    Baseline("paq8px 216 -7", 1.1955, "adaptive: learns while it reads; 252,421 - 228,375 bytes"),
)


def counted(
    train: Documents, part: Documents, vocab_size: int, progress: Progress | None = None
) -> Iterator[Baseline]:
    """Yield the losses of the uniform model and of n-gram models counted on the training part.
    `progress` is called with the numbers of orders counted, and in all.

    Raises:
        UserError: if the training part is too long for this machine's memory.
    """
    yield Baseline("uniform", math.log(vocab_size), "every character equally likely")
    model = NGramModel(*_arrays(train), vocab_size, MAX_ORDER, progress)
    predicted = ~first_of_document(part.lengths.numpy())
    for order, values in enumerate(model.log_probabilities(*_arrays(part)), start=1):
        name = "unigram" if order == 1 else f"{order}-gram"
        note = "how often characters occur" if order == 1 else "modified Kneser-Ney"
        yield Baseline(name, float(-values[predicted].mean()), note)


def _arrays(documents: Documents) -> tuple[np.ndarray, list[int]]:
    return documents.ids.numpy().astype(np.int64), documents.lengths.tolist()


def compressed(train: Iterable[str], part: Iterable[str]) -> Iterator[Baseline]:
    """Yield the losses of general compressors that have read the training part."""
    known, text = "".join(train), "".join(part)
    for name, compressor in compressors().items():
        bits = added_bits(compressor, known.encode(), text.encode())
        yield Baseline(name, bits * math.log(2) / len(text), "adaptive: learns while it reads")


def compressors() -> dict[str, Compressor]:
    """Return all compressors that this machine has, by name."""
    optional = {"PPMd": ppmd(), "zpaq -m5": zpaq()}
    return {**COMPRESSORS, **{name: found for name, found in optional.items() if found}}


def zpaq() -> Compressor | None:
    """Return zpaq (Mahoney 2009) at its strongest, which mixes many models; None if the program is
    not installed.
    """
    program = shutil.which("zpaq")
    if program is None:
        return None

    def compress(data: bytes) -> bytes:
        with TemporaryDirectory() as folder:
            Path(folder, "text").write_bytes(data)
            command = [program, "add", "text.zpaq", "text", "-method", "5", "-threads", "1"]
            subprocess.run(command, cwd=folder, capture_output=True, check=True)
            return Path(folder, "text.zpaq").read_bytes()

    return compress


def ppmd() -> Compressor | None:
    """Return PPMd (Shkarin 2001), the strongest common compressor on text; None without the package
    `pyppmd`, which is not installed by default.
    """
    try:
        import pyppmd
    except ImportError:
        return None
    return lambda data: bytes(
        pyppmd.compress(data, max_order=_PPMD_ORDER, mem_size=_PPMD_MEMORY_BYTES)
    )


def added_bits(compressor: Compressor, known: bytes, text: bytes) -> int:
    """Return how many bits longer the compressed file gets when the text is appended."""
    return 8 * (len(compressor(known + text)) - len(compressor(known)))


def verdict(nats: float, baselines: Iterable[Baseline]) -> str:
    """Return how a loss compares with those of n-gram models, in one line."""
    ngrams = _ngrams(baselines)
    better = [ngram for ngram in ngrams if ngram.nats < nats]
    worse = [ngram for ngram in ngrams if ngram.nats >= nats]
    if not ngrams:
        return f"{nats:.4f} nats per character"
    if not better:
        return f"{nats:.4f}: better than every n-gram; the best is {_named(worse[0])}"
    if not worse:
        return f"{nats:.4f}: worse than {_named(better[-1])}"
    return f"{nats:.4f}: better than {_named(worse[0])}, worse than {_named(better[-1])}"


def best_ngram(baselines: Iterable[Baseline]) -> Baseline | None:
    """Return the n-gram model with the lowest loss, if there is one."""
    return next(iter(_ngrams(baselines)), None)


def _ngrams(baselines: Iterable[Baseline]) -> list[Baseline]:
    ngrams = [baseline for baseline in baselines if baseline.name.endswith("-gram")]
    return sorted(ngrams, key=lambda ngram: ngram.nats)


def _named(ngram: Baseline) -> str:
    article = "an" if ngram.name.startswith("8") else "a"
    return f"{article} {ngram.name} ({ngram.nats:.4f})"
