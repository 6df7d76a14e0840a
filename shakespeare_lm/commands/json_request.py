"""A line of JSON -> a prompt, the options to complete it with, and the object to answer with.

Enters: lines like {"prompt": "ROMEO:", "temperature": 0.5}, and the options of the command line.
Leaves: a `Request` for each, with an "error" in its object if it cannot be completed.
"""

import json
import math
import sys
from dataclasses import dataclass, field
from typing import Any

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import SamplingKeywords
from shakespeare_lm.data.text import decode_utf8
from shakespeare_lm.errors import UserError, check_type, one_line

# The options that a line may have.
_OPTIONS = (
    *SamplingKeywords.__annotations__,
    *("max_new_tokens", "max_lines", "stop", "seed", "unknown", "num_samples", "stream"),
)
_KEYS = ("prompt", "id", *_OPTIONS)
# What the answers of an earlier run have besides: such an answer can be completed again.
_ADDED = ("completion", "completions", "error")


@dataclass
class Request:
    """A line that asks for a completion.

    Args:
        line: its number in the input, from 1.
        record: the line's object, to which the answer is added: a completion or an "error".
        options: of `Completer.complete`, besides the number of samples.
        num_samples: how many completions it asks for.
        stream: whether it asks for pieces of text as they are made.
    """

    line: int
    record: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    num_samples: int = 1
    stream: bool = False

    @property
    def failed(self) -> bool:
        return "error" in self.record

    @property
    def alone(self) -> bool:
        """Whether it cannot be completed together with others."""
        return not self.failed and (self.stream or self.num_samples > 1)

    @property
    def prompt(self) -> str:
        return str(self.record["prompt"])


def read_request(
    completer: Completer, line: bytes, name: str, number: int, defaults: dict[str, Any]
) -> Request:
    """Read and check a line; a mistake in it is printed to stderr too.

    Args:
        completer: what will complete it.
        line: an object in JSON.
        name: of the input.
        number: of the line in the input.
        defaults: the options of the command line, which the line's own override.
    """
    place = f"{name}:{number}"
    request = Request(number)
    try:
        request.record = _parsed(line, place)
        _check_keys(request.record, place)
        _set_options(request, defaults)
        _check_options(request, completer)
    except UserError as error:
        message = one_line(error)
        message = message if message.startswith(place) else f"{place}: {message}"
        print(f"error: {message}", file=sys.stderr)
        request.record["error"] = message
    return request


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    text = decode_utf8(line, place)
    try:
        record = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {one_line(error)}") from None
    if not isinstance(record, dict):
        raise UserError(f'{place} has no prompt: expected an object like {{"prompt": "ROMEO:"}}')
    return {key: value for key, value in record.items() if key not in _ADDED}


def _finite(text: str) -> float:
    """Refuse numbers that JSON cannot represent."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:80]} is not a finite number")
    return number


def _integer(text: str) -> int:
    _finite(text)  # a larger one could not be used as a number with decimals
    return int(text)


def _check_keys(record: dict[str, Any], place: str) -> None:
    if not isinstance(record.get("prompt"), str):
        raise UserError(f'{place} has no prompt: expected an object like {{"prompt": "ROMEO:"}}')
    for key in record:
        if key not in _KEYS:
            choices = ", ".join(_KEYS)
            raise UserError(f"{place} has an unknown key {key[:80]!r}: choose from: {choices}")


def _set_options(request: Request, defaults: dict[str, Any]) -> None:
    """Take the line's own options, and those of the command line for others and for null."""
    record = request.record
    own = {name: record[name] for name in _OPTIONS if record.get(name) is not None}
    options = {"num_samples": 1, "stream": False, **defaults, **own}
    request.num_samples, request.stream = options.pop("num_samples"), options.pop("stream")
    request.options = options


def _check_options(request: Request, completer: Completer) -> None:
    if request.options.get("stop") is not None:
        check_type(str | list, stop=request.options["stop"])  # and not an object's keys
    # Checks all other types and values, and computes nothing yet.
    completer.stream(request.prompt, num_samples=request.num_samples, **request.options)
    check_type(bool, stream=request.stream)
    if request.stream and request.num_samples > 1:
        raise UserError(f"stream is true and num_samples is {request.num_samples}: expected 1")
