"""pieces -> JSON: answers in the form of OpenAI's completions.

Enters: a request, and what its streams gave. Leaves: dictionaries for JSON.
"""

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from shakespeare_lm.completion.scoring import Score
from shakespeare_lm.serving.engine import Likelihood


class Answer:
    """One answer, in one go or in chunks, all with the same id and time.

    Args:
        model: its name.
    """

    def __init__(self, model: str) -> None:
        self._common = {
            "id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion",
            "created": int(time.time()), "model": model,
        }  # fmt: skip

    def body(self, choices: Iterable[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        """Return the whole answer."""
        return {**self._common, "choices": list(choices), "usage": usage}

    def chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Return a part of the answer."""
        return {**self._common, "choices": [choice]}

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the last part, if the client asked for it."""
        return {**self._common, "choices": [], "usage": usage}


def choice(
    index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None
) -> dict[str, Any]:
    """Return one text of an answer, or a part of it."""
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return what was read and made; a character is a token."""
    return {
        "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }  # fmt: skip


def logprobs_of(likelihoods: Sequence[Likelihood], offset: int) -> dict[str, Any]:
    """Return likelihoods of characters; `offset` is that of the first in the whole text."""
    return {
        "tokens": [one.character for one in likelihoods],
        "token_logprobs": [one.log_probability for one in likelihoods],
        "top_logprobs": [one.top for one in likelihoods],
        "text_offset": list(range(offset, offset + len(likelihoods))),
    }


def logprobs_of_prompt(prompt: str, score: Score | None) -> dict[str, Any]:
    """Return likelihoods of a prompt, whose first character has none."""
    tokens = list(prompt)
    values: list[float] = [] if score is None else score.log_probabilities
    tops = [] if score is None else [dict(one) for one in score.alternatives] or [{}] * len(values)
    first = [None] if tokens else []
    return {
        "tokens": tokens,
        "token_logprobs": [*first, *values],
        "top_logprobs": [*first, *tops],
        "text_offset": list(range(len(tokens))),
    }


def joined_logprobs(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return those of a prompt and of what follows."""
    return {name: [*first[name], *second[name]] for name in first}


def error_body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
