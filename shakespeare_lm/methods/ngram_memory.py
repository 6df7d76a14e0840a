"""ids -> what a frozen n-gram model of the training part expects next, for a transformer to read.

Enters: ids `[batch, time]`. Leaves: the next-character probabilities of interpolated modified
Kneser-Ney models of all orders (Chen & Goodman 1998, section 3), as inputs of the network and as
the starting point of its logits. A transformer spends its first minutes on learning what counting
gives at once.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.hardware import check_memory
from shakespeare_lm.methods.ngrams import NGrams, count_ngrams, discounts

_SMALLEST_PROBABILITY = 1e-9
# Gives the features about the size of the embeddings.
_ROOT_SCALE = 4.0
# After the last code, so that a search always ends at one.
_NO_CODE = np.iinfo(np.int64).max


class Expected(NamedTuple):
    """What the n-gram models expect after each position.

    Args:
        features: the square roots of all orders' probabilities, times 4, and the logarithms of how
            often their contexts occur, `[batch, time, max_order * (vocab + 1)]`.
        log_probabilities: of the highest order, `[batch, time, vocab]`.
    """

    features: Tensor
    log_probabilities: Tensor


class _Order(NamedTuple):
    """The counts of one order, ready to be looked up: below the highest order, the number of
    different characters before instead of the number of occurrences (Kneser-Ney).

    Args:
        codes: of the n-grams, sorted (see `NGrams`), and one that no n-gram has.
        kept: what the discount leaves of the count of each character after each context,
            `[contexts + 1, vocab]`; the last row is for contexts that were never seen.
        freed: what the discounts of each context add up to, `[contexts + 1]`.
        totals: the counts of each context, `[contexts + 1]`.
        once: 1 for an n-gram that occurs once, else 0, `[n-grams + 1]`; the last is for unseen
            ones.
        apart: 1 if all occurrences of an n-gram have different characters before them, else 0.
        freed_by_one: how much more is freed if the count of an n-gram is one less.
    """

    codes: Tensor
    kept: Tensor
    freed: Tensor
    totals: Tensor
    once: Tensor
    apart: Tensor
    freed_by_one: Tensor


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
        self._orders: list[_Order] = []

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

    def orders(self) -> list[_Order]:
        """Return all orders, counted when they are first needed.

        Raises:
            UserError: if the text is too long for this machine's memory.
        """
        device = self.text.device
        if not self._orders or self._orders[0].codes.device != device:
            ids, lengths = self.text.cpu().numpy().astype(np.int64), self.lengths.cpu().numpy()
            *_, counted = count_ngrams(ids, lengths, self.vocab_size, self.max_order)
            self._orders = [
                _order(counted, number, self.vocab_size, device) for number in range(len(counted))
            ]
        return self._orders

    @torch.no_grad()
    def forward(self, ids: Tensor, own: Tensor | None = None) -> Expected:
        """Return what is expected after each position.

        Args:
            ids: `[batch, time]`; n-grams reach back to the first of them.
            own: the character that follows each position, `[batch, time]`, if these ids are from
                the training part: its own occurrence is then left out of the counts, or the network
                would learn to trust a memory that has seen the answer.
        """
        roots, totals, probabilities = [], [], torch.zeros(0)
        for probabilities, total in self._by_order(ids, own):
            roots.append(_ROOT_SCALE * probabilities.sqrt())
            totals.append(total.log1p())
        features = torch.cat([*roots, *totals], dim=-1)
        return Expected(features, _logarithm(probabilities))

    def log_probabilities(self, ids: Tensor, own: Tensor | None = None) -> Tensor:
        """Return those of `forward` alone, `[batch, time, vocab]`."""
        return _logarithm(self.probabilities(ids, own))

    @torch.no_grad()
    def probabilities(self, ids: Tensor, own: Tensor | None = None) -> Tensor:
        """Return the next-character probabilities of the highest order, `[batch, time, vocab]`."""
        *_, (probabilities, _) = self._by_order(ids, own)
        return probabilities

    def _by_order(self, ids: Tensor, own: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the probabilities of each order, and how often its contexts occur."""
        orders = self.orders()
        # The n-gram that ends with the character after a position is its own.
        known = ids if own is None else torch.cat((ids, own[:, -1:]), dim=1)
        ngrams = self._ngrams(orders, known)
        contexts = [torch.zeros_like(ids), *(ngram[:, : ids.shape[1]] for ngram in ngrams[:-1])]
        left_out = None if own is None else _left_out(orders, [ngram[:, 1:] for ngram in ngrams])
        shape = (*ids.shape, self.vocab_size)
        probabilities = torch.full(shape, 1 / self.vocab_size, device=ids.device)
        for number, (order, context) in enumerate(zip(orders, contexts, strict=True)):
            kept, freed, total = (x[context] for x in (order.kept, order.freed, order.totals))
            if left_out is not None and own is not None:
                fewer = left_out[number]
                kept.scatter_add_(-1, own[..., None], -(fewer.freed + fewer.lost)[..., None])
                freed, total = freed + fewer.freed, total - fewer.lost
            probabilities = _interpolate(kept, freed, total, probabilities)
            yield probabilities, total[..., None]

    def _ngrams(self, orders: Sequence[_Order], ids: Tensor) -> list[Tensor]:
        """Return the number of the n-gram of each order that ends at each position; -1 if it was
        never seen.
        """
        found, context = [], torch.zeros_like(ids)
        for order in orders:
            found.append(self._find(order, context, ids))
            context = nn.functional.pad(found[-1], (1, -1), value=-1)
        return found

    def _find(self, order: _Order, context: Tensor, ids: Tensor) -> Tensor:
        code = context * self.vocab_size + ids  # negative after an unseen context
        number = torch.searchsorted(order.codes, code)
        return torch.where(order.codes[number] == code, number, -1)


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=_SMALLEST_PROBABILITY).log()


class _LeftOut(NamedTuple):
    """How a context's figures change when one occurrence is left out, `[batch, time]`: whether its
    count loses one (1 or 0), and how much more is freed.
    """

    lost: Tensor
    freed: Tensor


def _left_out(orders: Sequence[_Order], own: Sequence[Tensor]) -> list[_LeftOut]:
    """Return, for each order, what changes when the own n-grams are left out.

    The highest order's count loses one. Below, the character before it is lost if the longer n-gram
    occurs nowhere else. At the beginning of a window the longer n-gram is not known: the character
    is lost for certain only if no other occurrence shares it.
    """
    lost = []
    for order, ngram, longer, above in zip(orders, own, own[1:], orders[1:], strict=False):
        lost.append(torch.where(longer >= 0, above.once[longer], order.apart[ngram]))
    lost.append((own[-1] >= 0).float())
    return [
        _LeftOut(one, one * order.freed_by_one[ngram])
        for order, ngram, one in zip(orders, own, lost, strict=True)
    ]


def _order(counted: Sequence[NGrams], number: int, vocab_size: int, device: torch.device) -> _Order:
    grams = counted[number]
    counts = grams.different if number + 1 < len(counted) else grams.counts
    needed = 4 * (grams.num_contexts + 1) * vocab_size
    check_memory(needed, f"a memory of {number + 1}-grams", "use a shorter text or a lower order")
    taken = discounts(counts).astype(np.float32)
    left = counts - taken[counts.clip(max=3)]
    kept = np.zeros((grams.num_contexts + 1, vocab_size), dtype=np.float32)
    kept.reshape(-1)[grams.codes] = left
    contexts = grams.codes // vocab_size
    totals = np.bincount(contexts, counts, grams.num_contexts + 1).astype(np.float32)
    freed = totals - np.bincount(contexts, left, grams.num_contexts + 1).astype(np.float32)
    freed_by_one = taken[(counts - 1).clip(0, 3)] - taken[counts.clip(max=3)]
    arrays = (
        np.append(grams.codes, _NO_CODE), kept, freed, totals,
        *(np.append(of_each, 0).astype(np.float32)
          for of_each in (grams.counts == 1, grams.counts == counts, freed_by_one)),
    )  # fmt: skip
    return _Order(*(torch.from_numpy(array).to(device) for array in arrays))


def _interpolate(kept: Tensor, freed: Tensor, total: Tensor, below: Tensor) -> Tensor:
    """Return the probabilities of an order; where its context never occurs, those of the one below.

    p(c | context) = (count - discount) / total + (mass that was discounted / total) * below
    """
    freed = torch.where(total > 0, freed, 1.0)
    mixed = torch.addcmul(kept, freed[..., None], below)
    return mixed.div_(total.clamp(min=1)[..., None])
