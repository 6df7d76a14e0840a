"""A text, character by character -> the probabilities of each next one, by a model that can learn
from what it has just read (dynamic evaluation, Krause et al. 2018).

Four rules make adaptive losses fair: a prediction depends on earlier characters only; its
probabilities sum to one; a character is predicted before it is learned from; the text is read once.
"""

import copy
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.decoder import CachedDecoder, Decoder, UncachedDecoder
from shakespeare_lm.completion.inference import check_all_finite
from shakespeare_lm.completion.recent_ngrams import RecentNGrams
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.network import Network

Floats = NDArray[np.float64]

# The window moves on, and an adaptive model learns, after an eighth of the context.
_STRIDES_PER_CONTEXT = 8
# Adam without momentum. Each tensor's learning rate is relative to its root mean square: weights of
# models trained with weight decay are a tenth of others (measured: see docs/EXPERIMENTS.md).
_RELATIVE_RATE, _BETAS = 8e-4, (0.0, 0.999)


def sliding_stride(context_length: int) -> int:
    """Return how many new characters each window predicts."""
    return max(1, context_length // _STRIDES_PER_CONTEXT)


class Predictor:
    """Predicts a text: `log_probabilities` of the next character, then `observe` it, and so on.

    Args:
        network: maps ids `[batch, time]` to logits `[batch, time, vocab]`; it stays as it is.
        context_length: how many characters the network sees.
        num_characters: how many of the ids are characters, and not padding.
        adaptive: whether the network, or a copy of it, learns from what it has read.
        ngrams: whether n-grams of what it has read are mixed in.

    Raises:
        UserError: if it is adaptive, and its weights are not in float32.
    """

    def __init__(
        self,
        network: nn.Module,
        context_length: int,
        num_characters: int,
        adaptive: bool = False,
        ngrams: bool = False,
    ) -> None:
        self.network, self.context_length = network, context_length
        self.num_characters, self.stride = num_characters, sliding_stride(context_length)
        self.ngrams = RecentNGrams(num_characters) if ngrams else None
        self.optimizer: torch.optim.Optimizer | None = None
        if adaptive:
            with torch.inference_mode(False):
                self.network = copy.deepcopy(network).eval().requires_grad_()
            weights = list(self.network.parameters())
            if any(weight.dtype != torch.float32 for weight in weights):
                raise UserError("an adaptive model learns, which needs float32: leave --dtype out")
            groups = [{"params": [w], "lr": _RELATIVE_RATE * _root_mean_square(w)} for w in weights]
            self.optimizer = torch.optim.Adam(groups, betas=_BETAS)
        self.begin()

    def begin(self) -> None:
        """Start a new document; what was learned stays."""
        self._window: deque[int] = deque()
        self._decoder: Decoder | None = None
        self._predicted: Floats | None = None
        self._new = 0  # predicted characters since the window moved
        if self.ngrams:
            self.ngrams.begin()

    def read(self, ids: Sequence[int]) -> Iterator[Floats]:
        """Yield the log-probabilities, `[characters]`, of each character of a document but the
        first, before it is read.
        """
        self.begin()
        for number, character in enumerate(ids):
            if number:
                yield self.log_probabilities()
            self.observe(character)

    def log_probabilities(self) -> Floats:
        """Return the logarithms of the next character's probabilities, `[characters]`; before the
        first character of a document, all are equally likely.
        """
        if self._predicted is None:
            logits = self._next_logits() if self._window else np.zeros(self.num_characters)
            self._predicted = logits - np.logaddexp.reduce(logits)
            if self.ngrams:
                self._predicted = self.ngrams.mix(self._predicted)
        return self._predicted

    def observe(self, character: int) -> None:
        """Read the id of the next character; learn from the newest ones before the window moves."""
        self.log_probabilities()
        if self.ngrams:
            self.ngrams.observe(character)
        self._new += bool(self._window)  # the network does not predict the first
        self._window.append(character)
        self._predicted = None
        if self._new == self.stride:
            if self.optimizer:
                self._learn(self.optimizer)
            self._decoder, self._new = None, 0

    def _next_logits(self) -> Floats:
        if self._decoder is None:  # the window has moved, and the weights may have changed
            kept = self.context_length + 1 - self.stride
            self._window = deque(list(self._window)[-kept:])
            self._decoder = self._new_decoder()
        logits = self._decoder.logits([self._window])[0, : self.num_characters]
        check_all_finite(logits.isfinite())
        return logits.double().cpu().numpy()

    def _new_decoder(self) -> Decoder:
        if isinstance(self.network, Network) and self.network.reads_past:
            return CachedDecoder(CachedForward(self.network), 1, "exact")
        return UncachedDecoder(self.network, self.context_length, "exact")

    def _learn(self, optimizer: torch.optim.Optimizer) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            ids = torch.tensor(self._window, device=next(self.network.parameters()).device)
            logits = self.network(ids[None, :-1])[0, -self._new :]
            F.cross_entropy(logits.float(), ids[-self._new :]).backward()
            optimizer.step()
            optimizer.zero_grad()


def _root_mean_square(weight: Tensor) -> float:
    return float(weight.detach().square().mean().sqrt())
