"""the body of a request, from anybody -> a `CompletionRequest`: what a client of OpenAI's
completions may ask. What would have no effect here is refused, and not ignored.
"""

import json
from dataclasses import dataclass
from typing import Any

from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.errors import UserError, as_list, check_at_least, check_at_most, check_type

MAX_STREAMS = 128  # of one request: prompts times n
_MAX_STOPS = 16
_MAX_LOGPROBS = 20
# Characters of prompts, of all samples, and of those that are scored.
_MAX_ECHOED, _MAX_SCORED = 1 << 20, 20_000
_LARGEST_SEED = 2**63 - 1
# Accepted without effect: who asks, and options of OpenAI's that mean nothing at these values.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1), "frequency_penalty": (None, 0), "presence_penalty": (None, 0),
    "suffix": (None, ""), "logit_bias": (None, {}),
}  # fmt: skip
_KNOWN = (
    "model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "seed", "n",
    "logprobs", "echo", "stream", "stream_options", "user",
)  # fmt: skip


class RequestError(Exception):
    """A request that cannot be answered: a message for people, HTTP's status, the field that is
    wrong, and OpenAI's code, for programs.
    """

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code


@dataclass(frozen=True)
class CompletionRequest:
    """What is asked: see https://platform.openai.com/docs/api-reference/completions."""

    model: str
    prompts: list[str]
    max_tokens: int
    sampling: SamplingOptions
    stop: list[str]
    seed: int | None
    n: int
    logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool


def parse_request(body: bytes, max_tokens: int) -> CompletionRequest:
    """Return what a body asks for, with `max_tokens` characters at most.

    Raises:
        RequestError: if it is not such a request.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError("the body is not JSON") from None
    if not isinstance(asked, dict):
        raise RequestError("the body is not a JSON object")
    _check_names(asked)
    try:
        return _checked(asked, max_tokens)
    except UserError as error:
        name = str(error).split(" ", 1)[0].split("[")[0]
        raise RequestError(str(error), param=name if name in _KNOWN else None) from None


def _as_float(name: str, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except OverflowError:  # JSON knows integers of any size
        raise UserError(f"{name} is too large") from None


def _check_names(asked: dict[str, Any]) -> None:
    for name, value in asked.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise RequestError(f"{name} is not supported", param=name)
        elif name not in _KNOWN:
            # Escaped: a name can have a lone surrogate, which no answer can.
            shown = ascii(name[:80])
            raise RequestError(f"there is no field {shown}", param=shown[1:-1])


def _checked(asked: dict[str, Any], most: int) -> CompletionRequest:
    def get(name: str, hint: Any, default: Any) -> Any:
        value = asked.get(name)
        value = default if value is None else value
        check_type(hint, **{name: value})
        return _as_float(name, value) if hint in (float, float | None) else value

    max_tokens, n = get("max_tokens", int, 16), get("n", int, 1)
    logprobs, seed = get("logprobs", int | None, None), get("seed", int | None, None)
    check_at_least(0, max_tokens=max_tokens, logprobs=logprobs or 0)
    check_at_most(_LARGEST_SEED, seed=abs(seed or 0))
    check_at_most(most, max_tokens=max_tokens)
    check_at_most(_MAX_LOGPROBS, logprobs=logprobs or 0)
    check_at_least(1, n=n)
    prompts = as_list("prompt", get("prompt", str | list, "\n"), str)
    if asked.get("echo"):
        most_echoed = _MAX_ECHOED // n if logprobs is None else min(_MAX_SCORED, _MAX_ECHOED // n)
        check_at_most(most_echoed, prompt_characters=sum(map(len, prompts)))
    stop = as_list("stop", get("stop", str | list, []), str)
    texts = len(prompts) * n
    if not 1 <= texts <= MAX_STREAMS:
        raise UserError(f"prompt and n ask for {texts} texts: expected 1 to {MAX_STREAMS}")
    if len(stop) > _MAX_STOPS or "" in stop:
        raise UserError(
            f"stop is invalid: expected at most {_MAX_STOPS} strings, none of them empty"
        )
    options = get("stream_options", dict, {})
    return CompletionRequest(
        model=get("model", str, ""), prompts=prompts, max_tokens=max_tokens,
        sampling=SamplingOptions(
            temperature=get("temperature", float, 1.0), top_k=get("top_k", int | None, None),
            top_p=get("top_p", float | None, None), min_p=get("min_p", float | None, None),
        ),
        stop=stop, seed=seed, n=n, logprobs=logprobs, echo=get("echo", bool, False),
        stream=get("stream", bool, False), include_usage=options.get("include_usage") is True,
    )  # fmt: skip
