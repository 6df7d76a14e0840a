"""Does a model copy its training text? The fraction of its samples copied from the training part,
next to that of held-out text, which a person wrote: what that shares with the training part is the
language. And how often greedy completion reproduces the text after a prefix.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from shakespeare_lm.completion.completer import MAX_SAMPLES, Completer
from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.errors import check_at_least, check_at_most
from shakespeare_lm.evaluation.novelty import Novelty, novelty

_SUFFIXES = (32, 64)
_PREFIXES = 256


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What is sampled from the model; a `UserError` names a value that is out of range."""

    num_samples: int = 32  # each begins as a new line does
    max_new_tokens: int = 1000
    temperature: float = 1.0  # 1 is the model's own distribution; lower values copy more
    seed: int = 0  # of the samples, and of the choice of prefixes

    def __post_init__(self) -> None:
        check_at_least(1, num_samples=self.num_samples, max_new_tokens=self.max_new_tokens)
        check_at_most(MAX_SAMPLES, num_samples=self.num_samples)
        SamplingOptions(temperature=self.temperature)


@dataclass(frozen=True)
class Extraction:
    """How often greedy completion reproduces the suffix of a prefix (Carlini et al. 2022,
    "Quantifying memorization across neural language models"); None if the text is too short.
    """

    suffix: int  # its number of characters, which must all be right
    train: float | None  # the fraction of prefixes from the training part
    held_out: float | None


@dataclass(frozen=True)
class Copying:
    """Whether a model copies."""

    sampled: Novelty
    held_out: Novelty  # of as many characters from the beginning of the held-out part
    prefix: int  # the number of characters before each suffix
    extraction: list[Extraction]  # for each length of the suffix
    samples: list[str]


def measure_copying(
    completer: Completer,
    train: Sequence[str],
    held_out: Sequence[str],
    config: SampleConfig = SampleConfig(),
    progress: Callable[[int, int], None] | None = None,
) -> Copying:
    """Sample from a model, and look its text up in the training part; `held_out` are documents of
    another part. `progress` is called with the numbers of characters sampled, and in all.

    Raises:
        UserError: if the texts are too long for this machine's memory, or have characters that the
            model does not know.
    """
    samples = _samples(completer, config, progress)
    prefix = max(1, completer.context_length // 2)
    parts = (train, held_out)
    rates = [extraction_rates(completer, part, prefix, config.seed) for part in parts]
    return Copying(
        novelty(samples, train),
        novelty(_beginning(held_out, sum(map(len, samples))), train),
        prefix,
        [Extraction(*row) for row in zip(_SUFFIXES, *rates, strict=True)],
        samples,
    )


def _samples(
    completer: Completer, config: SampleConfig, progress: Callable[[int, int], None] | None
) -> list[str]:
    texts = [""] * config.num_samples
    pieces = completer.stream(
        "\n", config.max_new_tokens, num_samples=config.num_samples, seed=config.seed,
        temperature=config.temperature, unknown="skip",
    )  # fmt: skip
    for done, piece in enumerate(pieces, start=1):
        texts = [text + more for text, more in zip(texts, piece, strict=True)]
        if progress is not None:
            progress(min(done, config.max_new_tokens), config.max_new_tokens)
    return texts


def _beginning(documents: Sequence[str], length: int) -> list[str]:
    """Return the first `length` characters of the documents; all if there are fewer."""
    starts = accumulate(map(len, documents), initial=0)
    return [
        text[: length - start]
        for text, start in zip(documents, starts, strict=False)
        if start < length
    ]


def extraction_rates(
    completer: Completer, documents: Sequence[str], prefix: int, seed: int
) -> list[float | None]:
    """Return, for each length in `_SUFFIXES`, how often greedy completion reproduces that many
    characters after up to 256 random prefixes; None if no document is long enough.
    """
    pieces = _random_pieces(documents, prefix + max(_SUFFIXES), seed)
    if not pieces:
        return [None] * len(_SUFFIXES)
    prompts = [piece[:prefix] for piece in pieces]
    made = completer.complete(prompts, max(_SUFFIXES), temperature=0, unknown="skip")
    pairs = list(zip(made, (piece[prefix:] for piece in pieces), strict=True))
    return [
        sum(text[:length] == right[:length] for text, right in pairs) / len(pairs)
        for length in _SUFFIXES
    ]


def _random_pieces(documents: Sequence[str], size: int, seed: int) -> list[str]:
    """Return distinct pieces of this size, in the order of the text."""
    starts = [max(0, len(document) - size + 1) for document in documents]
    if not sum(starts):
        return []
    generator = random.Random(seed)
    chosen = generator.choices(range(len(documents)), weights=starts, k=_PREFIXES)
    positions = sorted({(i, generator.randrange(starts[i])) for i in chosen})
    return [documents[i][start : start + size] for i, start in positions]
