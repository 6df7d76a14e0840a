"""The body of a request -> a `CompletionRequest`: what a client of OpenAI's completions may ask.
Options without effect here are refused instead of ignored.
"""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, from_json
from starlette.exceptions import HTTPException

from shakespeare_lm.completion.sampling import SamplingOptions

MAX_STREAMS = 128  # of one request: prompts times n
# Characters of prompts, of all samples, and of those that are scored.
_MAX_ECHOED, _MAX_SCORED = 1 << 20, 20_000
# Options of OpenAI's that mean nothing at these values, the only ones accepted.
_NEUTRAL: dict[str, Any] = {
    "best_of": 1, "frequency_penalty": 0, "presence_penalty": 0, "suffix": "", "logit_bias": {},
}  # fmt: skip


class RequestError(HTTPException):
    """A request that cannot be answered: a message for people, HTTP's status, the field that is
    wrong, and OpenAI's code, for programs.
    """

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(status, message, {"Retry-After": "1"} if status == 429 else None)
        self.param, self.code = param, code


def _as_list(value: object) -> list[str]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise PydanticCustomError("strings", "must be a string, or a list of strings")
    return strings


class CompletionRequest(BaseModel):
    """What is asked: see https://platform.openai.com/docs/api-reference/completions."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = ""
    prompt: Annotated[list[str], BeforeValidator(_as_list)] = ["\n"]
    max_tokens: int = Field(16, ge=0)
    temperature: float = Field(1.0, ge=0)
    top_k: int | None = Field(None, ge=1)
    top_p: float | None = Field(None, gt=0, le=1)
    min_p: float | None = Field(None, gt=0, le=1)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list), Field(max_length=16)
    ] = []
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int = Field(1, ge=1)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    stream: bool = False
    stream_options: dict[str, Any] = {}
    user: Any = None  # accepted without effect

    @property
    def sampling(self) -> SamplingOptions:
        names = ("temperature", "top_k", "top_p", "min_p")
        return SamplingOptions(**{name: getattr(self, name) for name in names})


def parse_request(body: bytes, max_tokens: int) -> CompletionRequest:
    """Return what a body asks for, with `max_tokens` characters at most.

    Raises:
        RequestError: if it is not such a request.
    """
    try:
        fields = from_json(body)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError("the body is not a JSON object")
    given = {name: value for name, value in fields.items() if value is not None}
    for name, neutral in _NEUTRAL.items():
        if given.pop(name, neutral) != neutral:
            raise RequestError(f"{name} is not supported", param=name)
    try:
        asked = CompletionRequest.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])[:80]
        if first["type"] == "extra_forbidden":
            raise RequestError(f"unknown field {name!r}", param=name) from None
        reason = re.sub(r"^\w+ should", "must", first["msg"]).partition(" after ")[0]
        raise RequestError(f"{name} is {first['input']!r:.80}: {reason}", param=name) from None
    _check_amount(asked, max_tokens)
    return asked


def _check_amount(asked: CompletionRequest, max_tokens: int) -> None:
    """Raise a `RequestError` if the texts would be too many or too long."""
    texts, characters = len(asked.prompt) * asked.n, sum(map(len, asked.prompt))
    most = _MAX_ECHOED // asked.n
    most = most if asked.logprobs is None else min(_MAX_SCORED, most)
    wrong = None
    if asked.max_tokens > max_tokens:
        wrong = "max_tokens", f"is {asked.max_tokens}: must be at most {max_tokens}"
    elif not 1 <= texts <= MAX_STREAMS:
        wrong = "prompt", f"and n ask for {texts} texts: must be 1 to {MAX_STREAMS}"
    elif asked.echo and characters > most:
        wrong = "prompt", f"has {characters:,} characters: at most {most:,} can be echoed"
    if wrong:
        raise RequestError(" ".join(wrong), param=wrong[0])


def error_body(error: Exception) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    message, kind = "the server failed", "server_error"
    if isinstance(error, HTTPException):
        message, kind = error.detail, "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
