"""checkpoint -> completion: a `.ckpt` and a prompt become text.

Enters: the path of a checkpoint. Leaves: a `Completer`. Needs torch but not Lightning, so it starts
fast.
"""

import random
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

from torch import nn

from shakespeare_lm.checkpoint.reading import network_weights, read_checkpoint
from shakespeare_lm.completion.decoder import CachedReader, WholeReader, Window
from shakespeare_lm.completion.generation import generate
from shakespeare_lm.completion.sampling import Decoding
from shakespeare_lm.completion.scoring import Score, score_ids
from shakespeare_lm.completion.stop_strings import Ending
from shakespeare_lm.data.tokenizer import CharTokenizer, Unknown
from shakespeare_lm.errors import UserError, check_choice
from shakespeare_lm.hardware import DTYPES, choose_device
from shakespeare_lm.network.build import build_network
from shakespeare_lm.network.transformer import CausalTransformer

# A completion of nothing starts as a new line would.
_EMPTY_PROMPT = "\n"
# More prompts than these are completed in turns: a cache of all would need too much memory.
_PROMPTS_TOGETHER = 64
_SAMPLES_TOGETHER = 1024


class Completer:
    """Continues texts with a trained model, and says how likely it finds them.

    Args:
        transformer: maps ids `[batch, time]` to logits `[batch, time, vocab]`.
        tokenizer: the one it was trained with.
        context_length: how many of the last characters it looks at.
        compiled: whether the transformer's `compile_step` was called.
    """

    def __init__(
        self,
        transformer: nn.Module,
        tokenizer: CharTokenizer,
        context_length: int,
        compiled: bool = False,
    ) -> None:
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.compiled = compiled

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        compile: bool = False,
    ) -> "Completer":
        """Load a checkpoint that training wrote; nothing in it is executed, no other file is
        needed.

        Args:
            path: of the checkpoint.
            device: cpu, cuda, mps, or auto: the fastest there is.
            dtype: float32, bfloat16 or float16, of the weights and the cache.
            compile: let torch.compile translate the step from one character to the next, which
                takes ten seconds or more at first; on a CPU it is used for texts made alone.

        Raises:
            UserError: if the file is missing, damaged, or no checkpoint of this program, or for a
                device that is not there.
        """
        where = choose_device(device)
        check_choice("dtype", dtype, DTYPES)
        checkpoint = read_checkpoint(path)
        hyperparameters = checkpoint["hyper_parameters"]
        transformer = build_network(hyperparameters)
        transformer.load_state_dict(network_weights(checkpoint))
        tokenizer = CharTokenizer(hyperparameters["vocabulary"])
        transformer.to(where, DTYPES[dtype]).eval()
        if compile and isinstance(transformer, CausalTransformer):
            transformer.compile_step()
        return cls(transformer, tokenizer, hyperparameters["context_length"], compile)

    @overload
    def complete(
        self, prompt: str, max_new_tokens: int = ..., *, num_samples: None = ..., **options: Any
    ) -> str: ...
    @overload
    def complete(
        self, prompt: str, max_new_tokens: int = ..., *, num_samples: int, **options: Any
    ) -> list[str]: ...
    @overload
    def complete(
        self, prompt: Sequence[str], max_new_tokens: int = ..., **options: Any
    ) -> list[str]: ...
    def complete(
        self,
        prompt: str | Sequence[str],
        max_new_tokens: int = 500,
        *,
        num_samples: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> str | list[str]:
        """Return what comes after the prompt, without the prompt itself.

        Args:
            prompt: one text, or several; each of several gets the text that it would get alone.
            max_new_tokens: how many characters to make at most.
            num_samples: of one prompt, how many completions to return as a list; the prompt is read
                once for all.
            seed: makes sampling repeatable; sample i is what `seed + i` gives alone.
            **options: as for `stream`.

        Raises:
            UserError: for an unknown character or a value out of range.
        """
        if isinstance(prompt, str):
            count = _checked_samples(num_samples)
            prompts, seeds = [prompt] * count, _seeds(seed, count)
        elif num_samples is None:
            prompts = list(prompt)
            seeds = [seed] * len(prompts)
        else:
            raise UserError("num_samples is for one prompt, not for several")
        texts = []
        for first in range(0, len(prompts), _PROMPTS_TOGETHER):
            some = slice(first, first + _PROMPTS_TOGETHER)
            pieces = self._pieces(prompts[some], seeds[some], max_new_tokens, **options)
            texts += ["".join(of_one) for of_one in zip(*pieces, strict=True)]
        return texts[0] if isinstance(prompt, str) and num_samples is None else texts

    @overload
    def stream(
        self, prompt: str, max_new_tokens: int = ..., *, num_samples: None = ..., **options: Any
    ) -> Iterator[str]: ...
    @overload
    def stream(
        self, prompt: str, max_new_tokens: int = ..., *, num_samples: int, **options: Any
    ) -> Iterator[list[str]]: ...
    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 500,
        *,
        num_samples: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Iterator[str] | Iterator[list[str]]:
        """Yield the same text as `complete`, piece by piece, each as soon as it is certain.

        Args:
            prompt: one text; of a long one, the last `context_length` characters count.
            max_new_tokens: how many characters to make at most.
            num_samples: if given, this many completions grow together, and lists of their next
                pieces are yielded.
            seed: makes sampling repeatable; sample i is what `seed + i` gives alone.
            **options: `unknown`: what to do with characters that the model never saw (see
                `CharTokenizer.encode`); `stop`: a text, or several, any of which ends the
                completion without being part of it; `max_lines`: how many lines to make, the
                prompt's last one included; `window`: how the window moves on when it is full,
                "stride" or "exact" (see reader.py); `cache`: False reads the whole window for every
                character; and `greedy`, `temperature`, `top_k`, `top_p`, `min_p`: see `Decoding`.

        Raises:
            UserError: for an unknown character or a value out of range, at once and not when the
                stream is read.
        """
        count = _checked_samples(num_samples)
        if count > _SAMPLES_TOGETHER:
            raise UserError(f"num_samples is {count}: at most {_SAMPLES_TOGETHER} grow together")
        pieces = self._pieces([prompt] * count, _seeds(seed, count), max_new_tokens, **options)
        return pieces if num_samples else (piece for (piece,) in pieces if piece)

    def _pieces(
        self,
        prompts: list[str],
        seeds: Sequence[int | None],
        max_new_tokens: int,
        *,
        unknown: Unknown = "error",
        stop: str | Sequence[str] | None = None,
        max_lines: int | None = None,
        window: Window = "stride",
        cache: bool = True,
        **decoding: Any,
    ) -> Iterator[list[str]]:
        """Check everything, and return a stream of each prompt's next piece of text."""
        _check_whole(max_new_tokens=max_new_tokens, max_lines=max_lines, seed=seeds[0])
        if max_new_tokens < 0:
            raise UserError(f"max_new_tokens is {max_new_tokens}: accepted is 0 or more")
        check_choice("window", window, ("stride", "exact"))
        stops = [stop] if isinstance(stop, str) else list(stop or ())
        endings = [Ending(stops, max_lines) for _ in prompts]
        ids = generate(
            self._reader(len(prompts), window, cache),
            [self._prompt_ids(prompt, unknown) for prompt in prompts],
            Decoding(**decoding),
            [_randomness(seed) for seed in seeds],
            choices=len(self.tokenizer.vocabulary),
        )
        return self._ended(islice(ids, min(max_new_tokens, sys.maxsize)), endings)

    def _ended(self, ids: Iterator[list[int]], endings: list[Ending]) -> Iterator[list[str]]:
        for row in ids:
            characters = [self.tokenizer.vocabulary[number] for number in row]
            yield [end.add(one) for end, one in zip(endings, characters, strict=True)]
            if all(ending.reached for ending in endings):
                return
        yield [ending.rest() for ending in endings]

    def _prompt_ids(self, prompt: str, unknown: Unknown) -> list[int]:
        ids = self.tokenizer.encode(prompt, unknown)
        # A vocabulary without a newline starts from its first character.
        return ids or self.tokenizer.encode(_EMPTY_PROMPT, "skip") or [0]

    def _reader(self, batch: int, window: Window, cache: bool) -> CachedReader | WholeReader:
        if cache and isinstance(self.transformer, CausalTransformer):
            # Compiled for a CPU, steps of one text are faster, and those of many far slower.
            on_cpu = self.transformer.head.weight.device.type == "cpu"
            fixed_shape = self.compiled and (batch == 1 or not on_cpu)
            return CachedReader(self.transformer, batch, window, fixed_shape)
        return WholeReader(self.transformer, self.context_length, window)

    def score(
        self, text: str, *, top: int = 0, window: Window = "stride", unknown: Unknown = "error"
    ) -> Score:
        """Return how likely the model finds every character of a text but its first.

        Args:
            text: at least two characters.
            top: how many of the likeliest characters to name at each position.
            window: how the window moves on when it is full: each character is scored as if the text
                before it had been completed.
            unknown: what to do with characters that the model never saw.

        Raises:
            UserError: for an unknown character, a text too short, or a value out of range.
        """
        check_choice("window", window, ("stride", "exact"))
        ids = self.tokenizer.encode(text, unknown)
        return score_ids(self.transformer, self.tokenizer, ids, self.context_length, window, top)


def _checked_samples(num_samples: int | None) -> int:
    if num_samples is not None and num_samples < 1:
        raise UserError(f"num_samples is {num_samples}: accepted is 1 or more")
    return num_samples or 1


def _check_whole(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and not isinstance(number, int):
            raise UserError(f"{name} is {number!r}: accepted is a whole number")


def _seeds(seed: int | None, count: int) -> list[int | None]:
    return [None if seed is None else seed + i for i in range(count)]


def _randomness(seed: int | None) -> random.Random:
    # The text around the number keeps neighbouring seeds far apart, and -1 apart from 1.
    return random.Random() if seed is None else random.Random(f"completion {seed}")
