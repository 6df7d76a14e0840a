"""A frozen n-gram model of the training part, which a network reads or a teacher is."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor, nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.hardware import check_memory
from shakespeare_lm.methods.ngrams import (
    NGrams,
    Order,
    count_ngrams,
    discounted_after,
    find_ngrams,
    interpolate,
    tables_of,
)

_SMALLEST_PROBABILITY = 1e-9
# Gives the features about the size of the embeddings.
_ROOT_SCALE = 4.0
# Dense tables, `[contexts, vocab]`, are fast to read, but mostly zeros if there are thousands of
# symbols: the lowest orders have them, as long as they fit into this memory (either of the two).
# Tiny Shakespeare's eight orders take 230 bytes per character.
_SMALL_BYTES, _DENSE_BYTES_PER_CHARACTER = 16 << 20, 512
_NGRAM_BYTES = 64  # of an n-gram in the other tables, and while they are made


class NGramMemory(nn.Module):
    """A frozen n-gram model, whose state is the text that is counted: a checkpoint stays whole, and
    small.

    Args:
        vocab_size: number of ids, including the padding symbol, which no n-gram has.
        max_order: the longest n-gram.
        option: the option to name in errors.
    """

    text: Tensor
    lengths: Tensor

    def __init__(self, vocab_size: int, max_order: int, option: str = "memory_order") -> None:
        super().__init__()
        self.vocab_size, self.max_order, self.option = vocab_size, max_order, option
        self.num_features = max_order * (vocab_size + 1)
        # Types that every distributed back end can send.
        dtype = torch.uint8 if vocab_size <= 256 else torch.int32
        self.register_buffer("text", torch.zeros(0, dtype=dtype))
        self.register_buffer("lengths", torch.zeros(0, dtype=torch.long))
        self.left_out: Tensor | None = None  # see `leaving_out`
        self._orders: list[Order] = []

    def remember(self, ids: Tensor, lengths: Tensor) -> None:
        """Replace the text: documents one after the other, `[characters]`, and their lengths."""
        device = self.text.device
        self.text = ids.to(device, self.text.dtype)
        self.lengths = lengths.to(device, torch.long)
        self._orders = []

    def has_counted(self, ids: Tensor, lengths: Tensor) -> bool:
        """Return whether this text is the one that it remembers."""
        same = torch.equal(self.lengths.cpu(), lengths)
        return same and torch.equal(self.text.cpu().long(), ids.long())

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *rest: object
    ) -> None:
        self.remember(state_dict[f"{prefix}text"], state_dict[f"{prefix}lengths"])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def check_state(self, text: Tensor, lengths: Tensor) -> None:
        """Raise a `UserError` if a state, which can come from anybody, cannot be counted: the text
        must be one of ids, and the lengths must add up to it.
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
        """Count the text, when it is first needed on this device; one that is too long for this
        machine's memory is a `UserError`.
        """
        device = self.text.device
        if self._orders and self._orders[0].codes.device == device:
            return
        ids, lengths = self.text.cpu().numpy().astype(np.int64), self.lengths.cpu().numpy()
        counted = count_ngrams(ids, lengths, self.vocab_size, self.max_order)
        dense_bytes = [4 * self.vocab_size * (grams.num_contexts + 1) for grams in counted]
        allowed = max(_SMALL_BYTES, _DENSE_BYTES_PER_CHARACTER * len(ids))
        num_dense = sum(total <= allowed for total in accumulate(dense_bytes))
        needed = sum(dense_bytes[:num_dense]) + _NGRAM_BYTES * sum(len(g.codes) for g in counted)
        advice = f"use a shorter text or {self.option} 0"
        check_memory(needed, f"{self.option}: the memory of n-grams", advice)
        self._orders = [
            Order(*(table.to(device) for table in self._tables(grams, number < num_dense)))
            for number, grams in enumerate(counted)
        ]

    def _tables(self, grams: NGrams, is_dense: bool) -> Order:
        """Return an order's tables; `discounted` is `[contexts, vocab]` if it is dense."""
        counts = grams.different if len(grams.different) else grams.counts
        order = tables_of(grams, counts, self.vocab_size, np.float32)
        if not is_dense:
            return order
        # Large arrays of NumPy lie in huge pages: a step of `memory` takes 2 % less time.
        dense = np.zeros((grams.num_contexts + 1, self.vocab_size), np.float32)
        dense.reshape(-1)[grams.codes] = order.discounted[:-1]
        return order._replace(discounted=torch.from_numpy(dense))

    @torch.no_grad()
    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of the n-grams, which reach back to the first of ids `[batch, time]`, and
        `log_probabilities`. The features are the square roots of all orders' probabilities, times
        4, and the logarithms of how often their contexts occur, `[..., max_order * (vocab + 1)]`.
        """
        roots, totals, probabilities = [], [], torch.zeros(0)
        for probabilities, total in self._by_order(ids):
            roots.append(_ROOT_SCALE * probabilities.sqrt())
            totals.append(total.log1p())
        features = torch.cat([*roots, *totals], dim=-1)
        return features, _logarithm(probabilities)

    def log_probabilities(self, ids: Tensor) -> Tensor:
        """Return the logarithms of `probabilities`."""
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
        if targets is None:
            ngrams = find_ngrams(self._orders, ids, self.vocab_size)
        else:
            text = torch.cat((ids, targets[:, -1:]), dim=1)
            ngrams = find_ngrams(self._orders, text, self.vocab_size)
            changes = _leave_one_out(self._orders, [ngram[:, 1:] for ngram in ngrams])
        contexts = [torch.zeros_like(ids), *(ngram[:, : ids.shape[1]] for ngram in ngrams[:-1])]
        shape = (*ids.shape, self.vocab_size)
        # Not torch's default, which is that of the Trainer's precision while it computes.
        probabilities = torch.full(
            shape, 1 / self.vocab_size, dtype=torch.float32, device=ids.device
        )
        for number, (order, context) in enumerate(zip(self._orders, contexts, strict=True)):
            discounted = discounted_after(order, context, self.vocab_size)
            backoff, total = order.backoff[context], order.totals[context]
            if targets is not None:
                lost, gained = changes[number]
                discounted.scatter_add_(-1, targets[..., None], -(gained + lost)[..., None])
                backoff, total = backoff + gained, total - lost
            total = total[..., None]
            probabilities = interpolate(discounted, backoff[..., None], total, probabilities)
            yield probabilities, total


class LogProbabilities(nn.Module):
    """Maps ids `[batch, time]` to the log-probabilities of an n-gram memory alone."""

    def __init__(self, ngrams: NGramMemory) -> None:
        super().__init__()
        self.ngrams = ngrams

    def forward(self, ids: Tensor) -> Tensor:
        return self.ngrams.log_probabilities(ids)


def memories_in(module: nn.Module) -> list[NGramMemory]:
    return [part for part in module.modules() if isinstance(part, NGramMemory)]


def has_sparse(module: nn.Module) -> bool:
    """Return whether a memory in a module has sparse tables. What is read from them has no fixed
    shape, so a step that reads them can be neither compiled nor recorded.
    """
    for memory in memories_in(module):
        memory._count()
        if any(order.discounted.ndim == 1 for order in memory._orders):
            return True
    return False


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=_SMALLEST_PROBABILITY).log()


def _leave_one_out(orders: list[Order], ngrams: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return what changes in each order without one occurrence of the n-grams that end with each
    target, `[batch, time]` each: what its count loses, 1 or 0; what its context's backoff mass
    gains.

    The highest order's count loses one. Below, it loses the character before the n-gram if the
    longer n-gram occurs nowhere else. At the beginning of a window the longer n-gram is not known:
    the character is lost for certain only if no other occurrence has it before it.
    """
    losses = []
    for order, above, ngram, longer in zip(orders, orders[1:], ngrams, ngrams[1:], strict=False):
        known = above.singletons[longer]
        losses.append(torch.where(longer >= 0, known, order.all_different[ngram]))
    losses.append((ngrams[-1] >= 0).float())
    changes = zip(losses, orders, ngrams, strict=True)
    return [(lost, lost * order.backoff_by_one[ngram]) for lost, order, ngram in changes]


@contextmanager
def leaving_out(module: nn.Module, targets: Tensor | None) -> Iterator[None]:
    """Make every memory in a module leave out this occurrence of each target (leave-one-out), where
    it reads the text that it has counted: a network would learn to trust a memory that has seen the
    answer. `targets` are the characters that follow, `[batch, time]`; None for another text.
    """
    memories = memories_in(module)
    for memory in memories:
        memory.left_out = targets
    try:
        yield
    finally:
        for memory in memories:
            memory.left_out = None
