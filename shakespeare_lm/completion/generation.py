"""logits -> texts that grow: the loop of completion.

Enters: prompts as ids, what reads them, and how to choose. Leaves: an endless stream of next ids.
"""

import random
from collections import deque
from collections.abc import Iterator, Sequence

from shakespeare_lm.completion.decoder import CachedReader, WholeReader
from shakespeare_lm.completion.sampling import Decoding, next_ids


def generate(
    reader: CachedReader | WholeReader,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    randoms: Sequence[random.Random],
    choices: int,
) -> Iterator[list[int]]:
    """Yield the next id of every prompt, then the one after it, without end.

    Args:
        reader: gives the logits after each text.
        prompts: at least one id each; the last `context_length` count.
        decoding: how to choose.
        randoms: each prompt's own randomness: what stands beside a prompt does not change its text.
        choices: how many ids there are to choose from; padding, which comes after them, is none.
    """
    # What has left the window is forgotten: memory does not grow with the text.
    texts = [deque(prompt, maxlen=reader.context_length) for prompt in prompts]
    while True:
        logits = reader.logits(texts)[:, :choices]
        ids = next_ids(logits, decoding, [source.random() for source in randoms]).tolist()
        for text, number in zip(texts, ids, strict=True):
            text.append(number)
        yield ids
