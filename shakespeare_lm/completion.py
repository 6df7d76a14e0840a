"""checkpoint -> completion: a `.ckpt` and a prompt become text.

Enters: the path of a checkpoint. Leaves: a `Completer`. Needs torch but not Lightning, so it starts
fast.
"""

import pickle
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.network import NETWORK_OPTIONS, build_network
from shakespeare_lm.sampling import Decoding, next_id
from shakespeare_lm.tokenizer import CharTokenizer, Unknown

_WEIGHTS_PREFIX = "transformer."
# A completion of nothing starts as a new line would.
_EMPTY_PROMPT = "\n"


class Completer:
    """Continues texts with a trained model.

    Args:
        transformer: maps ids `[batch, time]` to logits `[batch, time, vocab]`.
        tokenizer: the one it was trained with.
        context_length: how many of the last characters it looks at.
    """

    def __init__(
        self, transformer: nn.Module, tokenizer: CharTokenizer, context_length: int
    ) -> None:
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.context_length = context_length

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "cpu") -> "Completer":
        """Load a checkpoint that training wrote; nothing in it is executed, no other file is
        needed.

        Raises:
            UserError: if the file is missing, damaged, or no checkpoint of this program.
        """
        checkpoint = read_checkpoint(path)
        hyperparameters = checkpoint["hyper_parameters"]
        weights = {
            name.removeprefix(_WEIGHTS_PREFIX): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(_WEIGHTS_PREFIX)
        }
        try:
            transformer = build_network(hyperparameters)
            transformer.load_state_dict(weights)
        except (RuntimeError, TypeError, AttributeError, UserError) as error:
            raise UserError(f"{path} holds no working model: {one_line(error)}") from None
        tokenizer = CharTokenizer(hyperparameters["vocabulary"])
        transformer.to(device).eval()
        return cls(transformer, tokenizer, hyperparameters["context_length"])

    @overload
    def complete(self, prompt: str, max_new_tokens: int = ..., **options: Any) -> str: ...
    @overload
    def complete(
        self, prompt: Sequence[str], max_new_tokens: int = ..., **options: Any
    ) -> list[str]: ...
    def complete(
        self,
        prompt: str | Sequence[str],
        max_new_tokens: int = 500,
        *,
        seed: int | None = None,
        unknown: Unknown = "error",
        **decoding: Any,
    ) -> str | list[str]:
        """Return what comes after the prompt, `max_new_tokens` characters, without the prompt
        itself.

        Args:
            prompt: one text, or several; each of several gets the text that it would get alone.
            max_new_tokens: how many characters to make.
            seed: makes sampling repeatable.
            unknown: what to do with characters that the model never saw: "error" or "skip".
            **decoding: `greedy`, `temperature`, `top_k`, `top_p`: see `Decoding`.

        Raises:
            UserError: for an unknown character or a value out of range.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            return []
        steps = self._stream(prompts, max_new_tokens, seed, unknown, Decoding(**decoding))
        texts = ["".join(characters) for characters in zip(*steps, strict=True)]
        texts = texts or [""] * len(prompts)
        return texts[0] if isinstance(prompt, str) else texts

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 500,
        *,
        seed: int | None = None,
        unknown: Unknown = "error",
        **decoding: Any,
    ) -> Iterator[str]:
        """Yield the same characters as `complete`, each as soon as it is made."""
        steps = self._stream([prompt], max_new_tokens, seed, unknown, Decoding(**decoding))
        return (characters[0] for characters in steps)

    def _stream(
        self,
        prompts: list[str],
        max_new_tokens: int,
        seed: int | None,
        unknown: Unknown,
        decoding: Decoding,
    ) -> Iterator[list[str]]:
        """Yield the next character of every prompt, step by step."""
        if max_new_tokens < 0:
            raise UserError(f"max_new_tokens is {max_new_tokens}: accepted is 0 or more")
        rows = [self._prompt_ids(prompt, unknown) for prompt in prompts]
        generators = [_generator(seed) for _ in prompts]
        return self._generate(rows, max_new_tokens, decoding, generators)

    def _prompt_ids(self, prompt: str, unknown: Unknown) -> list[int]:
        ids = self.tokenizer.encode(prompt, unknown)
        # A vocabulary without a newline starts from its first character.
        return ids or self.tokenizer.encode(_EMPTY_PROMPT, "skip") or [0]

    def _generate(
        self,
        rows: list[list[int]],
        max_new_tokens: int,
        decoding: Decoding,
        generators: list[torch.Generator],
    ) -> Iterator[list[str]]:
        for _ in range(max_new_tokens):
            logits = self._next_logits([row[-self.context_length :] for row in rows])
            chosen = [
                next_id(row, decoding, generator)
                for row, generator in zip(logits, generators, strict=True)
            ]
            for row, number in zip(rows, chosen, strict=True):
                row.append(number)
            yield [self.tokenizer.vocabulary[number] for number in chosen]

    @torch.no_grad()
    def _next_logits(self, rows: list[list[int]]) -> Tensor:
        """Return the logits after each row, `[batch, characters]`: padding is no choice."""
        device = next(self.transformer.parameters()).device
        time = max(map(len, rows))
        padded = [row + [self.tokenizer.padding_id] * (time - len(row)) for row in rows]
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        training = self.transformer.training
        self.transformer.eval()
        try:
            logits = self.transformer(torch.tensor(padded, device=device))
        finally:
            self.transformer.train(training)
        return logits[torch.arange(len(rows), device=device), last, : self.tokenizer.padding_id]


def newest_checkpoint(name: str, root: str | Path = "lightning_logs") -> Path:
    """Return `name`.ckpt of the newest run under `root` that has one.

    Raises:
        UserError: if no run has.
    """
    found = [
        (int(match[1]), path)
        for path in Path(root).glob(f"version_*/checkpoints/{name}.ckpt")
        if (match := re.fullmatch(r"version_(\d+)", path.parent.parent.name))
    ]
    if not found:
        raise UserError(
            f"no {name}.ckpt in {root}/version_*/checkpoints: train a model first (python "
            "scripts/fit.py), or give the path of a checkpoint"
        )
    return max(found)[1]


def _generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint of this program, with tensors on the CPU.

    `weights_only=True` lets the file hold tensors and plain builtins, and nothing that runs.

    Raises:
        UserError: if the file is missing, damaged, or not of this program.
    """
    if not Path(path).is_file():
        raise UserError(
            f"there is no checkpoint {path}: accepted is a .ckpt file that training wrote"
        )
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is damaged or no checkpoint: accepted is a .ckpt file that training wrote"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors and plain values, perhaps code: it was not loaded, "
            "and only checkpoints that this program wrote are accepted"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or no checkpoint: {reason}") from None
    _check_is_ours(checkpoint, path)
    result: dict[str, Any] = checkpoint
    return result


def _check_is_ours(checkpoint: object, path: str | Path) -> None:
    hyperparameters = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    complete = (
        isinstance(hyperparameters, dict)
        and all(name in hyperparameters for name in NETWORK_OPTIONS)
        and isinstance(hyperparameters["vocabulary"], str)
        and isinstance(checkpoint.get("state_dict"), dict)  # type: ignore[attr-defined]
    )
    if not complete:
        raise UserError(
            f"{path} is a checkpoint of another program: it has no vocabulary and sizes of a "
            "shakespeare_lm model"
        )
