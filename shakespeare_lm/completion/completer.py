"""checkpoint -> completion: a `.ckpt` and a prompt become text."""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypedDict, Unpack, get_args, overload

import torch
from torch import nn

from shakespeare_lm.checkpoint.ensemble import find_members, joint_network, read_members
from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.cuda_graph import generate_graphed
from shakespeare_lm.completion.decoder import CachedDecoder, Decoder, UncachedDecoder, Window
from shakespeare_lm.completion.predictor import Predictor
from shakespeare_lm.completion.sampling import (
    SamplingKeywords,
    SamplingOptions,
    generate,
    random_numbers,
)
from shakespeare_lm.completion.scoring import Progress, Score, score_ids
from shakespeare_lm.completion.stop_strings import StopStrings
from shakespeare_lm.data.tokenizer import CharTokenizer, Unknown
from shakespeare_lm.errors import (
    UserError,
    as_list,
    check_at_least,
    check_at_most,
    check_choice,
    check_type,
)
from shakespeare_lm.hardware import choose_device, choose_dtype
from shakespeare_lm.kernels.int8 import Int8Linear, quantise
from shakespeare_lm.methods.ngram_memory import has_sparse
from shakespeare_lm.model.network import Network

# More prompts than these are completed in groups: a cache for all would need too much memory.
_PROMPTS_TOGETHER = 64
_PROMPTS_TOGETHER_ON_GPU = 1024
_LARGE_CACHE_BYTES = 4 << 30
MAX_SAMPLES = 1024


class TextKeywords(TypedDict, total=False):
    """How the prompt is read, where a completion ends, and how the context window moves on."""

    unknown: Unknown  # what to do with characters that the model never saw
    stop: str | Sequence[str] | None  # a stop string, or several
    max_lines: int | None  # how many lines to make, including the prompt's last one
    window: Window
    cache: bool  # False reads the whole window for every character


class CompletionKeywords(TextKeywords, SamplingKeywords, total=False):
    """All options of a completion besides its length and seed."""


COMPLETION_OPTIONS = tuple(CompletionKeywords.__annotations__)


class Completer:
    """Completes texts with a trained model, and says how likely it finds them.

    Args:
        network: maps ids `[batch, time]` to logits `[batch, time, vocab]`.
        tokenizer: the one it was trained with.
        context_length: how many of the last characters it sees.
        compile: compile the step from one character to the next.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: CharTokenizer,
        context_length: int,
        compile: bool = False,
    ) -> None:
        check_type(bool, compile=compile)
        self.network, self.tokenizer = network, tokenizer
        self.context_length, self.compiled = context_length, compile
        self._cached_forward: CachedForward | None = None
        if isinstance(network, Network) and network.reads_past:
            self._cached_forward = CachedForward(network, compile)

    @property
    def dtype(self) -> str:
        """The number format of the weights."""
        if any(isinstance(layer, Int8Linear) for layer in self.network.modules()):
            return "int8"
        return str(next(self.network.parameters()).dtype).removeprefix("torch.")

    @classmethod
    def from_checkpoint(
        cls, path: str | Path | Sequence[str | Path], device: str = "cpu", dtype: str = "float32",
        compile: bool = False,
    ) -> "Completer":  # fmt: skip
        """Load a checkpoint; nothing in it is executed, and no other file is needed.

        Args:
            path: of the checkpoint, or the folder of a run; several, as a list or separated by
                commas, are an ensemble: the mean of their probabilities.
            device: cpu, cuda, mps, or auto for the fastest available.
            dtype: float32, bfloat16 or float16, of the weights and the cache; int8, of the weights
                only, on a CPU; or auto for the one that completes fastest here.
            compile: compile the step from one character to the next with torch.compile, which takes
                ten seconds or more at first; on a CPU it is used for single texts only.

        Raises:
            UserError: if the file is missing, damaged or not from this program, the device is not
                available, or several files have different characters.
        """
        where = choose_device(device)
        choose_dtype(dtype, where, 0)  # a wrong name is refused before anything is read
        members = read_members(find_members(as_list("path", path, str | Path)))
        network = joint_network(members)
        chosen = choose_dtype(dtype, where, sum(p.numel() for p in network.parameters()))
        network.to(where, torch.bfloat16 if chosen == torch.int8 else chosen).eval()
        if chosen == torch.int8:
            quantise(network)
        return cls(network, members[0].tokenizer, network.config.context_length, compile)

    @overload
    def complete(
        self, prompt: str, max_new_tokens: int = ..., *, num_samples: None = ...,
        seed: int | None = ..., **options: Unpack[CompletionKeywords],
    ) -> str: ...  # fmt: skip
    @overload
    def complete(
        self, prompt: str, max_new_tokens: int = ..., *, num_samples: int,
        seed: int | None = ..., **options: Unpack[CompletionKeywords],
    ) -> list[str]: ...  # fmt: skip
    @overload
    def complete(
        self, prompt: list[str] | tuple[str, ...], max_new_tokens: int = ..., *,
        seed: int | None = ..., **options: Unpack[CompletionKeywords],
    ) -> list[str]: ...  # fmt: skip
    def complete(
        self,
        prompt: str | Sequence[str],
        max_new_tokens: int = 500,
        *,
        num_samples: int | None = None,
        seed: int | None = None,
        **options: Unpack[CompletionKeywords],
    ) -> str | list[str]:
        """Return the text that follows the prompt, without the prompt itself.

        Args:
            prompt: one text, or several; each of several gets the text that it would get alone. The
                last `context_length` characters count.
            max_new_tokens: how many characters to make at most.
            num_samples: how many completions of one prompt to return as a list; the prompt is read
                once for all.
            seed: makes sampling repeatable; sample i is what `seed + i` gives alone.
            **options: of `TextKeywords` and `SamplingOptions`.

        Raises:
            UserError: for an unknown character, an unknown option, or a value of the wrong type or
                out of range.
        """
        _check_numbers(max_new_tokens, num_samples, seed)
        prompts = as_list("prompt", prompt, str)
        seeds = [seed] * len(prompts)
        if num_samples is not None:
            if not isinstance(prompt, str):
                raise UserError("num_samples cannot be combined with several prompts")
            prompts, seeds = prompts * num_samples, _seeds(seed, num_samples)
        texts, together = [], self._prompts_together()
        for first in range(0, len(prompts), together):
            group = slice(first, first + together)
            pieces = self._pieces(prompts[group], seeds[group], max_new_tokens, options)
            texts += ["".join(text) for text in zip(*pieces, strict=True)]
        return texts[0] if isinstance(prompt, str) and num_samples is None else texts

    def _prompts_together(self) -> int:
        weight = next(self.network.parameters())
        if not weight.is_cuda or self._cached_forward is None:
            return _PROMPTS_TOGETHER
        network = self._cached_forward.network
        configs = [member.config for member in getattr(network, "members", [network])]
        width = sum(config.num_layers * config.d_model for config in configs)
        row = 2 * width * network.config.context_length * weight.itemsize
        return max(_PROMPTS_TOGETHER, min(_PROMPTS_TOGETHER_ON_GPU, _LARGE_CACHE_BYTES // row))

    @overload
    def stream(
        self, prompt: str, max_new_tokens: int = ..., *, num_samples: None = ...,
        seed: int | None = ..., **options: Unpack[CompletionKeywords],
    ) -> Iterator[str]: ...  # fmt: skip
    @overload
    def stream(
        self, prompt: str, max_new_tokens: int = ..., *, num_samples: int,
        seed: int | None = ..., **options: Unpack[CompletionKeywords],
    ) -> Iterator[list[str]]: ...  # fmt: skip
    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 500,
        *,
        num_samples: int | None = None,
        seed: int | None = None,
        **options: Unpack[CompletionKeywords],
    ) -> Iterator[str] | Iterator[list[str]]:
        """Yield the text of `complete` piece by piece, each as soon as it is certain; of several
        samples, at most `MAX_SAMPLES`, lists of their next pieces.

        Raises:
            UserError: as `complete` does; at once and not when the stream is read.
        """
        check_type(str, prompt=prompt)
        _check_numbers(max_new_tokens, num_samples, seed)
        count = num_samples or 1
        check_at_most(MAX_SAMPLES, num_samples=count)
        pieces = self._pieces([prompt] * count, _seeds(seed, count), max_new_tokens, options)
        return pieces if num_samples else (piece for (piece,) in pieces if piece)

    def _pieces(
        self, prompts: list[str], seeds: Sequence[int | None], max_new_tokens: int,
        options: CompletionKeywords,
    ) -> Iterator[list[str]]:  # fmt: skip
        """Check everything, and return a stream of the next piece of text of each prompt."""
        for name in options:
            check_choice("completion option", name, COMPLETION_OPTIONS)
        sampling = SamplingOptions(
            **{name: options[name] for name in SamplingKeywords.__annotations__ if name in options}  # type: ignore[literal-required]
        )
        stop, unknown = options.get("stop"), options.get("unknown", "error")
        stop_strings = [] if stop is None else as_list("stop", stop, str)
        stops = [StopStrings(stop_strings, options.get("max_lines")) for _ in prompts]
        decoder = self._decoder(len(prompts), options)
        prompt_ids = [self.tokenizer.encode_prompt(text, unknown) for text in prompts]
        randoms, choices = [random_numbers(seed) for seed in seeds], len(self.tokenizer.vocabulary)
        on_gpu = next(self.network.parameters()).is_cuda
        if on_gpu and isinstance(decoder, CachedDecoder) and decoder.cache.fixed_shape:
            ids = generate_graphed(decoder, prompt_ids, sampling, randoms, choices)
        else:
            ids = generate(decoder, prompt_ids, sampling, randoms, choices)
        return self._until_stopped(islice(ids, min(max_new_tokens, sys.maxsize)), stops)

    def _until_stopped(
        self, ids: Iterator[list[int]], stops: list[StopStrings]
    ) -> Iterator[list[str]]:
        vocabulary = self.tokenizer.vocabulary
        for row in ids:
            yield [stop.add(vocabulary[i]) for stop, i in zip(stops, row, strict=True)]
            if all(stop.reached for stop in stops):
                return
        yield [stop.rest() for stop in stops]

    def _decoder(self, batch: int, options: CompletionKeywords) -> Decoder:
        window, cache = options.get("window", "stride"), options.get("cache", True)
        check_choice("window", window, get_args(Window))
        check_type(bool, cache=cache)
        if not cache or self._cached_forward is None:
            return UncachedDecoder(self.network, self.context_length, window)
        # Compiled for a CPU, the step of one text is faster, and that of many far slower.
        on_gpu = self._cached_forward.device.type == "cuda"
        fixed_shape = (on_gpu or (self.compiled and batch == 1)) and not has_sparse(self.network)
        return CachedDecoder(self._cached_forward, batch, window, fixed_shape)

    def predictor(self, adaptive: bool = False) -> Predictor:
        """Return a model of this one's that predicts a text character by character, in sliding
        windows; an adaptive one learns from what it has read, and mixes in n-grams of it.

        Raises:
            UserError: if it is adaptive, and the weights are not in float32.
        """
        characters = len(self.tokenizer.vocabulary)
        return Predictor(self.network, self.context_length, characters, adaptive, ngrams=adaptive)

    def score(
        self, text: str, *, top: int = 0, window: Window = "stride", unknown: Unknown = "error",
        adaptive: bool = False, progress: Progress | None = None,
    ) -> Score:  # fmt: skip
        """Return how likely the model finds every character of a text but its first.

        Args:
            text: at least two characters.
            top: how many of the likeliest characters to name at each position.
            window: how a full context window moves on, as in completion.
            unknown: what to do with characters that the model never saw.
            adaptive: let a copy of the model learn from what it has read (see `predictor`, whose
                windows it uses).
            progress: is called with the numbers of characters scored, and to score.

        Raises:
            UserError: for an unknown character, a text too short, or a value out of range.
        """
        check_choice("window", window, get_args(Window))
        check_type(bool, adaptive=adaptive)
        ids = self.tokenizer.encode(text, unknown)
        predictor = self.predictor(adaptive) if adaptive else None
        return score_ids(
            self.network, self.tokenizer, ids, self.context_length, window, top, progress, predictor
        )


def _check_numbers(max_new_tokens: int, num_samples: int | None, seed: int | None) -> None:
    check_type(int, max_new_tokens=max_new_tokens)
    check_type(int | None, num_samples=num_samples, seed=seed)
    check_at_least(0, max_new_tokens=max_new_tokens)
    check_at_least(1, num_samples=1 if num_samples is None else num_samples)


def _seeds(seed: int | None, count: int) -> list[int | None]:
    return [None if seed is None else seed + i for i in range(count)]
