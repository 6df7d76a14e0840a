"""A frozen n-gram model of the training part, which a network or a teacher asks what it expects."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shakespeare_lm.errors import (
    UserError,
)
from shakespeare_lm.hardware import check_memory
from shakespeare_lm.methods.ngrams import Order, count_ngrams, find_ngrams, interpolate, tables_of

_SMALLEST_PROBABILITY = 1e-9
# Gives the features about the size of the embeddings.
_ROOT_SCALE = 4.0


class Expected(NamedTuple):
    """What the n-gram models expect after each position.

    Args:
        features: the square roots of all orders' probabilities, times 4, and the logarithms of how
            often their contexts occur, `[batch, time, max_order * (vocab + 1)]`.
        log_probabilities: of the highest order, `[batch, time, vocab]`.
    """

    features: Tensor
    log_probabilities: Tensor


class NGramMemory(nn.Module):
    """A frozen n-gram model of the training part.

    Its state is the text that it was counted from: a checkpoint stays whole, and small.

    Args:
        vocab_size: number of ids, including the padding symbol, which no n-gram has.
        max_order: the longest n-gram.
    """

    text: Tensor
    lengths: Tensor

    def __init__(self, vocab_size: int, max_order: int) -> None:
        super().__init__()
        self.vocab_size, self.max_order = vocab_size, max_order
        self.num_features = max_order * (vocab_size + 1)
        # Types that every back end can send to other processes.
        dtype = torch.uint8 if vocab_size <= 256 else torch.int32
        self.register_buffer("text", torch.zeros(0, dtype=dtype))
        self.register_buffer("lengths", torch.zeros(0, dtype=torch.long))
        self.left_out: Tensor | None = None  # see `leaving_out`
        self._orders: list[Order] = []
        self._counts: list[Tensor] = []

    def remember(self, ids: Tensor, lengths: Tensor) -> None:
        """Replace the text.

        Args:
            ids: the training part, `[characters]`; documents one after the other.
            lengths: of the documents.
        """
        device = self.text.device
        self.text = ids.to(device, self.text.dtype)
        self.lengths = lengths.to(device, torch.long)
        self._orders = []

    def has_counted(self, ids: Tensor, lengths: Tensor) -> bool:
        """Return whether this is the text that it remembers."""
        same = torch.equal(self.lengths.cpu(), lengths)
        return same and torch.equal(self.text.cpu().long(), ids.long())

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        self.remember(state_dict[f"{prefix}text"], state_dict[f"{prefix}lengths"])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def check_state(self, text: Tensor, lengths: Tensor) -> None:
        """Refuse a state that cannot be counted, which can come from anybody.

        Raises:
            UserError: if the text is not one of ids, or the documents do not add up to it.
        """
        valid = (
            text.dtype == self.text.dtype
            and lengths.dtype == torch.long
            and text.ndim == lengths.ndim == 1
            and bool((lengths >= 0).all())
            and int(lengths.clamp(max=text.numel()).sum()) == int(lengths.sum()) == text.numel()
            and (not text.numel() or 0 <= int(text.min()) <= int(text.max()) < self.vocab_size)
        )
        if not valid:
            raise UserError("the text of its n-grams is not one of this vocabulary")

    def _count(self) -> None:
        """Count the text, when it is first needed on this device.

        Raises:
            UserError: if the text is too long for this machine's memory.
        """
        device = self.text.device
        if self._orders and self._orders[0].codes.device == device:
            return
        ids, lengths = self.text.cpu().numpy().astype(np.int64), self.lengths.cpu().numpy()
        *_, counted = count_ngrams(ids, lengths, self.vocab_size, self.max_order)
        self._orders, self._counts = [], []
        for number, grams in enumerate(counted, start=1):
            rows = grams.num_contexts + 1
            advice = "use a shorter text or a lower order"
            check_memory(4 * rows * self.vocab_size, f"a memory of {number}-grams", advice)
            counts = grams.different if len(grams.different) else grams.counts
            order = tables_of(grams, counts, self.vocab_size, np.float32)
            # Large arrays of NumPy lie in huge pages: a step of `memory` takes 2 % less time.
            dense = np.zeros((rows, self.vocab_size), np.float32)
            dense.reshape(-1)[grams.codes] = order.discounted[:-1]
            self._counts.append(torch.from_numpy(dense).to(device))
            self._orders.append(Order(*(table.to(device) for table in order)))

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Expected:
        """Return what is expected after each position of ids `[batch, time]`; n-grams reach back to
        the first of them.
        """
        roots, totals, probabilities = [], [], torch.zeros(0)
        for probabilities, total in self._by_order(ids):
            roots.append(_ROOT_SCALE * probabilities.sqrt())
            totals.append(total.log1p())
        features = torch.cat([*roots, *totals], dim=-1)
        return Expected(features, _logarithm(probabilities))

    def log_probabilities(self, ids: Tensor) -> Tensor:
        """Return those of `forward` alone, `[batch, time, vocab]`."""
        return _logarithm(self.probabilities(ids))

    @torch.no_grad()
    def probabilities(self, ids: Tensor) -> Tensor:
        """Return the next-character probabilities of the highest order, `[batch, time, vocab]`."""
        *_, (probabilities, _) = self._by_order(ids)
        return probabilities

    def _by_order(self, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the probabilities of each order, and how often its contexts occur."""
        self._count()
        targets = self.left_out
        # The n-gram that ends with the character after a position is its own.
        known = ids if targets is None else torch.cat((ids, targets[:, -1:]), dim=1)
        ngrams = find_ngrams(self._orders, known, self.vocab_size)
        contexts = [torch.zeros_like(ids), *(ngram[:, : ids.shape[1]] for ngram in ngrams[:-1])]
        fewer = None if targets is None else _fewer(self._orders, [one[:, 1:] for one in ngrams])
        shape = (*ids.shape, self.vocab_size)
        probabilities = torch.full(shape, 1 / self.vocab_size, device=ids.device)
        for number, (order, context) in enumerate(zip(self._orders, contexts, strict=True)):
            counts, backoff = self._counts[number][context], order.backoff[context]
            total = order.totals[context]
            if fewer is not None and targets is not None:
                lost, gained = fewer[number]
                counts.scatter_add_(-1, targets[..., None], -(gained + lost)[..., None])
                backoff, total = backoff + gained, total - lost
            total = total[..., None]
            probabilities = interpolate(counts, backoff[..., None], total, probabilities)
            yield probabilities, total


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=_SMALLEST_PROBABILITY).log()


def _fewer(orders: Sequence[Order], own: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return, for each order, how the figures of a context change when the own n-grams are left
    out, `[batch, time]` each: whether its count loses one (1 or 0); what the backoff mass gains.

    The highest order's count loses one. Below, the character before it is lost if the longer n-gram
    occurs nowhere else. At the beginning of a window the longer n-gram is not known: the character
    is lost for certain only if no other occurrence shares it.
    """
    lost = []
    for order, ngram, longer, above in zip(orders, own, own[1:], orders[1:], strict=False):
        known = above.singletons[longer]
        lost.append(torch.where(longer >= 0, known, order.all_different[ngram]))
    lost.append((own[-1] >= 0).float())
    return [
        (one, one * order.backoff_by_one[ngram])
        for order, ngram, one in zip(orders, own, lost, strict=True)
    ]


@contextmanager
def leaving_out(module: nn.Module, targets: Tensor | None) -> Iterator[None]:
    """Within, what is read is the training part: a memory that has counted it leaves out the own
    occurrence of each target (leave-one-out), or a network would learn to trust a memory that has
    seen the answer. The only place where a memory is told so.

    Args:
        module: with a memory in it, or without.
        targets: the characters that follow, `[batch, time]`; None: it is another text.
    """
    memories = [one for one in module.modules() if isinstance(one, NGramMemory)]
    for memory in memories:
        memory.left_out = targets
    try:
        yield
    finally:
        for memory in memories:
            memory.left_out = None
