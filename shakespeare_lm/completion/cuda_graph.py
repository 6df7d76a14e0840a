"""The loop of completion on a GPU: each step, with its sampling, is one CUDA graph.

A step for one text is a hundred operations that each take longer to start than to compute. A graph
starts them together, and the next step does not wait for the CPU to read the chosen ids.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch

from shakespeare_lm.completion.decoder import CachedDecoder
from shakespeare_lm.completion.inference import check_all_finite, evaluating
from shakespeare_lm.completion.sampling import SamplingOptions, choose_ids

_STEPS_TOGETHER = 16  # steps before the CPU reads the chosen ids
_WARM_UP_STEPS = 3  # before recording: some operations set themselves up at their first calls


def generate_graphed(
    decoder: CachedDecoder,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    randoms: Sequence[random.Random],
    choices: int,
) -> Iterator[list[int]]:
    """Do what `generate` does, with a decoder of fixed shape for as many texts as prompts.

    Of each of the `randoms`, more numbers may be taken than ids are yielded.
    """
    texts = [deque(prompt, maxlen=decoder.context_length) for prompt in prompts]
    steps: _Steps | None = None
    while True:
        with evaluating(decoder.forward.network):
            steps = steps or _Steps(decoder, options, choices)
            decoder.begin_windows(texts)
            room = decoder.context_length - max(decoder.cache.lengths)
            count = min(room, _STEPS_TOGETHER)
            uniform = [[source.random() for _ in range(count)] for source in randoms]
            chosen = steps.take([text[-1] for text in texts], uniform)
        for ids in chosen:
            for text, number in zip(texts, ids, strict=True):
                text.append(number)
            yield ids


class _Steps:
    """Steps of a decoder's cache, recorded once and replayed; on a CPU they are just run."""

    def __init__(self, decoder: CachedDecoder, options: SamplingOptions, choices: int) -> None:
        self.forward, self.cache = decoder.forward, decoder.cache
        self.options, self.choices = options, choices
        batch, device = len(self.cache.lengths), self.cache.newest.device
        # A recorded step always reads and writes these very tensors.
        self.newest = torch.zeros(batch, dtype=torch.long, device=device)
        self.chosen = torch.zeros(batch, _STEPS_TOGETHER, dtype=torch.long, device=device)
        self.uniform = torch.zeros(batch, _STEPS_TOGETHER, dtype=torch.double, device=device)
        self.column = torch.zeros(1, dtype=torch.long, device=device)
        self.run = self._record() if device.type == "cuda" else self._step

    def take(self, newest: Sequence[int], uniform: Sequence[Sequence[float]]) -> list[list[int]]:
        """Return the next ids, `[steps][batch]`, for random numbers `[batch][steps]`; `newest` are
        the ids that the cache does not hold yet.
        """
        count, lengths = len(uniform[0]), self.cache.lengths
        self.newest.copy_(torch.tensor(newest))
        self.uniform[:, :count] = torch.tensor(uniform, dtype=torch.double).to(self.uniform.device)
        self.column.zero_()
        for _ in range(count):
            self.run()
        self.cache.lengths = [length + count for length in lengths]
        chosen = self.chosen[:, :count].T
        check_all_finite(chosen < self.choices)
        return chosen.tolist()

    def _step(self) -> None:
        logits = self.forward.step(self.cache, self.newest)[:, : self.choices]
        uniform = self.uniform.index_select(1, self.column)[:, 0]
        self.newest.copy_(choose_ids(logits, self.options, uniform))
        self.chosen.index_copy_(1, self.column, self.newest[:, None])
        self.column += 1

    def _record(self) -> Callable[[], None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                self._restart()
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self._restart()
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as watchdogs of several processes, may use the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        self._restart()
        return graph.replay

    def _restart(self) -> None:
        self.cache.empty()
        self.column.zero_()
