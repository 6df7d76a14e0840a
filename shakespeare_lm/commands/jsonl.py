"""Many prompts as JSON lines, and their completions as JSON lines.

Lines are like {"prompt": "ROMEO:", "temperature": 0.5, "id": 7}; the options in a line override
those of the command line, and "id" is any value. The answers are the same objects in the same
order, each with its completion or an error: a line that cannot be completed does not stop the
others. A line with "stream": true first gets lines like {"id": 7, "line": 1, "piece": " But"}, each
as soon as its text is certain; "line" is the line's number in the input.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TextIO

from shakespeare_lm.commands.text_files import STDIN, stdin
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import SamplingKeywords
from shakespeare_lm.data.tokenizer import decode_utf8
from shakespeare_lm.errors import UserError, check_type, one_line

# The options that a line may have.
_OPTIONS = (
    *SamplingKeywords.__annotations__,
    *("max_new_tokens", "max_lines", "stop", "seed", "unknown", "num_samples", "stream"),
)
_KEYS = ("prompt", "id", *_OPTIONS)
# What an answer has in addition. It is dropped, so that answers can be completed again.
_ADDED = ("completion", "completions", "error")
# Lines of a file that are completed together and then written. Those of stdin are answered one by
# one: the writer may be waiting for the answer.
_LINES_TOGETHER = 64


@dataclass
class Request:
    """A line that asks for a completion."""

    line: int  # its number in the input, from 1
    record: dict[str, Any] = field(default_factory=dict)  # its object, and then the answer
    options: dict[str, Any] = field(default_factory=dict)  # of `Completer.complete`
    num_samples: int = 1
    stream: bool = False  # whether it asks for pieces of text as they are made

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


def complete_lines(
    completer: Completer, path: str, output: TextIO, defaults: dict[str, Any]
) -> int:
    """Complete the prompt of every line of a file, or of stdin for `-`; blank lines are dropped.
    One sample becomes "completion", a text; several become "completions", a list.

    `defaults` are options of `Completer.complete` for lines that do not have their own. Returns the
    exit code: 1 if a line could not be completed; stderr and the line's object say which.
    """
    name, together = ("stdin", 1) if path == STDIN else (path, _LINES_TOGETHER)
    failed = False
    with nullcontext(stdin().buffer) if path == STDIN else Path(path).open("rb") as file:
        requests = (
            read_request(completer, line, name, number, defaults)
            for number, line in enumerate(file, start=1)
            if line.strip()
        )
        for alone, run in groupby(requests, key=lambda request: request.alone):
            while some := list(islice(run, 1 if alone else together)):
                _complete(some, completer, output)
                failed = failed or any(request.failed for request in some)
    return int(failed)


def read_request(
    completer: Completer, line: bytes, name: str, number: int, defaults: dict[str, Any]
) -> Request:
    """Read and check line `number` of the input `name`. A mistake in it goes into the request's
    record, and to stderr.
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
        raise _no_prompt(place)
    return {key: value for key, value in record.items() if key not in _ADDED}


def _finite(text: str) -> float:
    """Refuse numbers that JSON cannot represent."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:80]} is not a finite number")
    return number


def _integer(text: str) -> int:
    _finite(text)  # a larger one could not be converted to float
    return int(text)


def _no_prompt(place: str) -> UserError:
    return UserError(f'{place} has no prompt: expected an object like {{"prompt": "ROMEO:"}}')


def _check_keys(record: dict[str, Any], place: str) -> None:
    if not isinstance(record.get("prompt"), str):
        raise _no_prompt(place)
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


def _complete(requests: list[Request], completer: Completer, output: TextIO) -> None:
    """Complete and write several requests, or one that has to be completed alone."""
    first = requests[0]
    if not first.alone:
        _complete_together(requests, completer)
    elif first.stream:
        _complete_in_pieces(first, completer, output)
    else:
        first.record["completions"] = completer.complete(
            first.prompt, num_samples=first.num_samples, **first.options
        )
    _write([request.record for request in requests], output)


def _complete_together(requests: list[Request], completer: Completer) -> None:
    """Add its completion to each record; requests with the same options are completed together."""
    groups: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        if not request.failed:
            groups[json.dumps(request.options, sort_keys=True)].append(request)
    for group in groups.values():
        texts = completer.complete([r.prompt for r in group], **group[0].options)
        for request, text in zip(group, texts, strict=True):
            request.record["completion"] = text


def _complete_in_pieces(request: Request, completer: Completer, output: TextIO) -> None:
    """Write each piece of the completion as a line, then add all to the record."""
    whose = {key: value for key, value in request.record.items() if key == "id"}
    text = ""
    for piece in completer.stream(request.prompt, **request.options):
        _write([{**whose, "line": request.line, "piece": piece}], output)
        text += piece
    request.record["completion"] = text


def _write(records: Iterable[dict[str, Any]], output: TextIO) -> None:
    for record in records:
        output.write(json.dumps(record, ensure_ascii=False) + "\n")
    output.flush()
