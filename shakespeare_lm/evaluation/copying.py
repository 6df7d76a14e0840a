"""Does a model copy the text that it was trained on? How much of its samples stands in the training
part, next to the same figures for held-out text. That was written by a person: what it shares with
the training part is the language, and not a copy.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shakespeare_lm.completion.completer import MAX_SAMPLES, Completer
from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.errors import check_at_least, check_at_most
from shakespeare_lm.evaluation.novelty import Novelty, novelty

_SUFFIXES = (32, 64)
_PREFIXES = 256


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What is sampled from the model.

    Raises:
        UserError: if a value is out of range.
    """

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
    """How often greedy completion of a prefix gives what follows it in the text (Carlini et al.
    2022, "Quantifying memorization across neural language models"); None if the text is too short.
    """

    suffix: int  # the number of characters that must all be right
    train: float | None  # the share of prefixes from the training part where they are
    held_out: float | None


@dataclass(frozen=True)
class Copying:
    """Whether a model copies."""

    sampled: Novelty
    held_out: Novelty  # of a text as long, from the beginning of the held-out part
    prefix: int  # how many characters completion was given for the extraction
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
    another part. `progress` is called with the numbers of characters made, and to make.

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
    """Return documents from the first on, of this length together if there is so much."""
    pieces = []
    for document in documents:
        pieces.append(document[:length])
        length -= len(pieces[-1])
    return [piece for piece in pieces if piece]


def extraction_rates(
    completer: Completer, documents: Sequence[str], prefix: int, seed: int
) -> list[float | None]:
    """Return, for each length in `_SUFFIXES`, how often that many greedy characters are all right
    after up to 256 random pieces of `prefix` characters; None if no document is long enough.
    """
    longest = max(_SUFFIXES)
    pieces = _random_pieces(documents, prefix + longest, seed)
    if not pieces:
        return [None] * len(_SUFFIXES)
    prompts = [piece[:prefix] for piece in pieces]
    made = completer.complete(prompts, longest, temperature=0, unknown="skip")
    expected = [piece[prefix:] for piece in pieces]
    return [
        sum(text[:length] == right[:length] for text, right in zip(made, expected, strict=True))
        / len(pieces)
        for length in _SUFFIXES
    ]


def _random_pieces(documents: Sequence[str], size: int, seed: int) -> list[str]:
    """Return different pieces of this size, in the order of the text."""
    starts = [max(0, len(document) - size + 1) for document in documents]
    if not sum(starts):
        return []
    generator = random.Random(seed)
    chosen = generator.choices(range(len(documents)), weights=starts, k=_PREFIXES)
    places = sorted({(i, generator.randrange(starts[i])) for i in chosen})
    return [documents[i][start : start + size] for i, start in places]
