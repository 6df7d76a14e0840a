"""logits -> growing texts: the loop of completion."""

import random
from collections import deque
from collections.abc import Iterator, Sequence

from shakespeare_lm.completion.decoder import Decoder
from shakespeare_lm.completion.sampling import SamplingOptions, next_ids


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    randoms: Sequence[random.Random],
    choices: int,
) -> Iterator[list[int]]:
    """Yield the next id of every prompt, then the one after it, endlessly.

    Args:
        decoder: computes the logits after each text.
        prompts: at least one id each; only the last `context_length` are used.
        options: how to sample.
        randoms: a generator per prompt, so that a prompt's text does not depend on the others.
        choices: number of ids to choose from, which excludes the padding symbol after them.
    """
    # Ids that have left the window are dropped: memory does not grow with the text.
    texts = [deque(prompt, maxlen=decoder.context_length) for prompt in prompts]
    while True:
        logits = decoder.logits(texts)[:, :choices]
        ids = next_ids(logits, options, [source.random() for source in randoms]).tolist()
        for text, number in zip(texts, ids, strict=True):
            text.append(number)
        yield ids
