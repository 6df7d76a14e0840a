"""A model and its corpus -> does it copy the text that it was trained on?

Enters: a `Completer`, the training part, and a held-out part. Leaves: how much of the sampled text
stands in the training part, beside the same figures for the held-out text. That was written by a
person: what it shares with the training part is the language, and not a copy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shakespeare_lm.completion.completer import MAX_SAMPLES, Completer
from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.errors import check_at_least, check_at_most
from shakespeare_lm.evaluation.extraction import SUFFIXES, extraction_rates
from shakespeare_lm.evaluation.novelty import Novelty, novelty


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What is sampled from the model.

    Args:
        num_samples: how many texts; each begins as a new line does.
        max_new_tokens: the length of each, in characters.
        temperature: 1 is the model's own distribution; lower values copy more.
        seed: of the samples, and of the choice of prefixes.

    Raises:
        UserError: if a value is out of range.
    """

    num_samples: int = 32
    max_new_tokens: int = 1000
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, num_samples=self.num_samples, max_new_tokens=self.max_new_tokens)
        check_at_most(MAX_SAMPLES, num_samples=self.num_samples)
        SamplingOptions(temperature=self.temperature)


@dataclass(frozen=True)
class Extraction:
    """How often greedy completion of a prefix gives what follows it in the text (Carlini et al.
    2022).

    Args:
        suffix: the number of characters that must all be right.
        train: the share of prefixes from the training part where they are.
        held_out: the same of the held-out part; None if it is too short.
    """

    suffix: int
    train: float | None
    held_out: float | None


@dataclass(frozen=True)
class Copying:
    """Whether a model copies.

    Args:
        sampled: the novelty of the samples.
        held_out: of a text as long, from the beginning of the held-out part.
        prefix: how many characters completion was given for the extraction.
        extraction: for each length of the suffix.
        samples: the texts.
    """

    sampled: Novelty
    held_out: Novelty
    prefix: int
    extraction: list[Extraction]
    samples: list[str]


def measure_copying(
    completer: Completer,
    train: Sequence[str],
    held_out: Sequence[str],
    config: SampleConfig = SampleConfig(),
    progress: Callable[[int, int], None] | None = None,
) -> Copying:
    """Sample from a model, and look its text up in the training part.

    Args:
        completer: the model.
        train: the documents of its training part.
        held_out: documents of another part.
        config: what is sampled.
        progress: is called with the numbers of characters made, and to make.

    Raises:
        UserError: if the texts are too long for this machine's memory, or have characters that the
            model does not know.
    """
    samples = _samples(completer, config, progress)
    prefix = max(1, completer.context_length // 2)
    rates = [
        extraction_rates(completer, documents, prefix, config.seed)
        for documents in (train, held_out)
    ]
    return Copying(
        novelty(samples, train),
        novelty(_beginning(held_out, sum(map(len, samples))), train),
        prefix,
        [Extraction(*row) for row in zip(SUFFIXES, *rates, strict=True)],
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
