"""text -> how likely each of its characters is, given the same sliding window as in completion."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shakespeare_lm.completion.decoder import Window, characters_kept
from shakespeare_lm.completion.inference import check_all_finite, evaluating
from shakespeare_lm.completion.predictor import Predictor
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.sliding_window import check_predictable, predictions

Progress = Callable[[int, int], None]  # characters scored so far, and in all


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text."""

    text: str  # with the first character, which is not scored
    log_probabilities: list[float]  # natural logarithms, one per character but the first
    # For each of these, the likeliest characters, best first; empty unless asked for.
    alternatives: list[list[tuple[str, float]]]

    @property
    def total_nats(self) -> float:
        """The negative log-likelihood of the text, in nats."""
        return -math.fsum(self.log_probabilities)

    @property
    def bits_per_character(self) -> float:
        """The mean negative log-likelihood per character, in bits."""
        return self.total_nats / len(self.log_probabilities) / math.log(2)

    @property
    def perplexity(self) -> float:
        """The number of equally likely characters that would be as hard to predict."""
        return perplexity(self.total_nats / len(self.log_probabilities))


def perplexity(nats: float) -> float:
    """Return e^nats, or the largest such number that a float can be."""
    return math.exp(min(nats, 709.0))


def score_ids(
    network: nn.Module,
    tokenizer: CharTokenizer,
    ids: Sequence[int],
    context_length: int,
    window: Window = "stride",
    top: int = 0,
    progress: Progress | None = None,
    predictor: Predictor | None = None,
) -> Score:
    """Do what `Completer.score` does, with ids."""
    if not 0 <= top <= len(tokenizer.vocabulary):
        raise UserError(f"top is {top}: expected 0 <= top <= {len(tokenizer.vocabulary)}")
    likelihoods: list[float] = []
    alternatives: list[list[tuple[str, float]]] = []
    with evaluating(network):
        stride = context_length + 1 - characters_kept(window, context_length)
        found_rows = predictions(network, torch.tensor(ids), context_length, stride)
        for rows, targets in found_rows if predictor is None else _one_by_one(predictor, ids):
            rows = rows[:, : len(tokenizer.vocabulary)].float().log_softmax(dim=-1)  # no padding
            found = rows.gather(1, targets[:, None])[:, 0]
            check_all_finite(found.isfinite())
            likelihoods += found.tolist()
            best = rows.topk(top)
            for values, numbers in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                characters = [tokenizer.vocabulary[number] for number in numbers]
                alternatives.append(list(zip(characters, values, strict=True)))
            if progress is not None:
                progress(len(likelihoods), len(ids) - 1)
    return Score(tokenizer.decode(ids), likelihoods, alternatives if top else [])


def _one_by_one(predictor: Predictor, ids: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield log-probabilities `[1, characters]` and target `[1]` of each character."""
    check_predictable(ids)
    for target, row in zip(ids[1:], predictor.read(ids), strict=True):
        yield torch.from_numpy(row)[None], torch.tensor([target])
