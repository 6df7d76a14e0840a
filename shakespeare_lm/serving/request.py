"""The body of a request -> a `CompletionRequest`: what a client of OpenAI's completions may ask, or
of its chats, of which the last message is completed. Options without effect here are refused
instead of ignored.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, from_json
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.errors import UserError, one_line

Json = dict[str, Any]
Asked = TypeVar("Asked", bound=BaseModel)
MAX_STREAMS = 128  # of one request: prompts times n
# Characters of prompts, of all samples, and of those that are scored.
_MAX_ECHOED, _MAX_SCORED = 1 << 20, 20_000
_MAX_LOGPROBS = 1 << 19  # of one answer, which take about 100 bytes each


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


def _as_prompts(value: object) -> list[str | list[int]]:
    prompts = [value] if isinstance(value, str) or (value and _are_ids(value)) else value
    if not isinstance(prompts, list) or not all(isinstance(x, str) or _are_ids(x) for x in prompts):
        raise PydanticCustomError("prompts", "must be a string, token ids, or a list of such")
    return prompts


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int for one in value)


class _Request(BaseModel):
    """What completions and chats have in common."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = ""
    max_tokens: int = Field(
        # OpenAI's default, 16, is too short where a character is a token.
        256, ge=0, validation_alias=AliasChoices("max_tokens", "max_completion_tokens")
    )  # fmt: skip
    temperature: float = Field(1.0, ge=0)
    top_k: int | None = Field(None, ge=1, lt=2**63)
    top_p: float | None = Field(None, gt=0, le=1)
    min_p: float | None = Field(None, gt=0, le=1)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
        Field(max_length=16),
    ] = []
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: Json = {}
    user: Any = None  # accepted without effect


class CompletionRequest(_Request):
    """What is asked: see https://platform.openai.com/docs/api-reference/completions."""

    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(
            _as_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]
        ),
    ] = ["\n"]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False

    @property
    def sampling(self) -> SamplingOptions:
        names = ("temperature", "top_k", "top_p", "min_p")
        return SamplingOptions(**{name: getattr(self, name) for name in names})


class _Message(BaseModel):
    content: str  # whoever says it


class ChatRequest(_Request):
    """A chat: see https://platform.openai.com/docs/api-reference/chat."""

    messages: list[_Message] = Field(min_length=1)

    def completion(self) -> CompletionRequest:
        """Ask for the text that follows the last message, because these models do not chat."""
        shared = self.model_dump(exclude={"messages"})
        return CompletionRequest(prompt=[self.messages[-1].content], **shared)


class TokenizeRequest(BaseModel):
    """A text whose token ids are asked for, as vLLM has it."""

    prompt: str


# Options of OpenAI's that mean nothing at these values, the only ones accepted.
_NEUTRAL: Json = {
    "best_of": 1, "frequency_penalty": 0, "presence_penalty": 0, "suffix": "", "logit_bias": {},
}  # fmt: skip
_NEUTRAL_IN_CHATS = {"logprobs": False, "tools": [], "response_format": {"type": "text"}}


def check_site(headers: Mapping[str, str], hosts: Sequence[str], origins: Sequence[str]) -> None:
    """Refuse what a page of another site makes its reader's browser send: browsers say in `Origin`
    whose page it is, and in `Host` by which name it asks this machine. `*` stands for all.

    Raises:
        RequestError: for other `hosts`, or sites that are neither this server nor in `origins`.
    """
    host, origin = headers.get("host", "").lower(), headers.get("origin")
    if "*" not in hosts and re.sub(r":\d*$", "", host) not in hosts:
        message = f"Host is {host[:80]!r}: this server is asked as {' or '.join(hosts)}"
        raise RequestError(message)
    if origin is None or "*" in origins or origin in origins:
        return
    if origin.lower().partition("://")[2] != host:
        message = f"pages of {origin[:80]!r} may not use this server: see --allow_origin"
        raise RequestError(message, 403)


def parse_request(
    body: bytes, max_tokens: int, kind: type[CompletionRequest | ChatRequest] = CompletionRequest
) -> CompletionRequest:
    """Return what a body asks for, with `max_tokens` characters at most.

    Raises:
        RequestError: if it is not such a request.
    """
    asked = validated(body, kind)
    if "max_tokens" not in asked.model_fields_set:
        asked = asked.model_copy(update={"max_tokens": min(asked.max_tokens, max_tokens)})
    asked = asked.completion() if isinstance(asked, ChatRequest) else asked
    _check_amount(asked, max_tokens)
    return asked


def validated(body: bytes, kind: type[Asked]) -> Asked:
    """Return a body as a request of this kind.

    Raises:
        RequestError: if it is not such a request.
    """
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError("the body is not a JSON object")
    given = {name: value for name, value in fields.items() if value is not None}
    neutral = _NEUTRAL | (_NEUTRAL_IN_CHATS if kind is ChatRequest else {})
    for name, value in neutral.items():
        if given.pop(name, value) != value:
            raise RequestError(f"{name} is not supported", param=name)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])[:80]
        if first["type"] == "extra_forbidden":
            raise RequestError(f"unknown field {name!r}", param=name) from None
        reason = re.sub(r"^\w+ should", "must", first["msg"]).partition(" after ")[0]
        raise RequestError(f"{name} is {first['input']!r:.80}: {reason}", param=name) from None


def _check_amount(asked: CompletionRequest, max_tokens: int) -> None:
    """Raise a `RequestError` if the texts would be too many or too long."""
    texts, characters = len(asked.prompt) * asked.n, sum(map(len, asked.prompt))
    most = _MAX_ECHOED // asked.n
    most = most if asked.logprobs is None else min(_MAX_SCORED, most)
    made = texts * asked.max_tokens + asked.echo * asked.n * characters
    logprobs = made * (1 + (asked.logprobs or 0))
    wrong = None
    if asked.max_tokens > max_tokens:
        wrong = "max_tokens", f"is {asked.max_tokens}: must be at most {max_tokens}"
    elif not 1 <= texts <= MAX_STREAMS:
        wrong = "prompt", f"and n ask for {texts} texts: must be 1 to {MAX_STREAMS}"
    elif asked.echo and characters > most:
        wrong = "prompt", f"has {characters:,} characters: at most {most:,} can be echoed"
    elif asked.logprobs is not None and logprobs > _MAX_LOGPROBS:
        wrong = "logprobs", f"asks for {logprobs:,} numbers: must be at most {_MAX_LOGPROBS:,}"
    if wrong:
        raise RequestError(" ".join(wrong), param=wrong[0])


def error_body(error: Exception) -> Json:
    """Return an error in OpenAI's form."""
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    message, kind = "the server failed", "server_error"
    if isinstance(error, HTTPException):
        message = error.detail
        kind = "invalid_request_error" if error.status_code < 500 else kind
    elif isinstance(error, UserError):  # of the model, not of the request
        message = one_line(error)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: Exception) -> JSONResponse:
    """Answer in OpenAI's form; an error that is not HTTP's is the model's, or a mistake of this
    program.
    """
    status, headers = getattr(error, "status_code", 500), getattr(error, "headers", None)
    return JSONResponse(error_body(error), status, headers)
