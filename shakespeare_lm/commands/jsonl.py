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
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, BinaryIO, TextIO

from shakespeare_lm.commands.text_files import MAX_BYTES, STDIN, input_name
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import SamplingKeywords
from shakespeare_lm.data.tokenizer import decode_utf8
from shakespeare_lm.errors import UserError, check_choice, check_type, one_line

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

Record = dict[str, Any]


@dataclass
class Request:
    """A line that asks for a completion."""

    line: int  # its number in the input, from 1
    record: Record = field(default_factory=dict)  # its object, and then the answer or an error
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


def complete_lines(
    completer: Completer, path: str, lines: BinaryIO, output: TextIO, defaults: dict[str, Any]
) -> int:
    """Complete the prompt of every line of the file at a path, or stdin for `-`, which is open;
    blank lines are dropped. One sample becomes "completion", a text; several become "completions",
    a list.

    `defaults` are options of `Completer.complete` for lines that do not have their own. Returns the
    exit code: 1 if a line could not be completed; stderr and the line's object say which. A
    `UserError` says that a line has no end.
    """
    name, together = input_name(path), 1 if path == STDIN else _LINES_TOGETHER
    failed = False
    requests = (
        read_request(completer, line, name, number, defaults)
        for number, line in enumerate(_bounded(lines, name), start=1)
        if line.strip()
    )
    for alone, run in groupby(requests, key=lambda request: request.alone):
        while some := list(islice(run, 1 if alone else together)):
            if alone:
                _complete_alone(some[0], completer, output)
            else:
                _complete_together(some, completer)
            for request in some:
                _write(request.record, output)
                failed = failed or request.failed
    return int(failed)


def _bounded(lines: BinaryIO, name: str) -> Iterator[bytes]:
    try:
        while line := lines.readline(MAX_BYTES + 1):
            if len(line) > MAX_BYTES:  # such as /dev/zero
                raise UserError(f"{name} has a line of more than {MAX_BYTES:,} bytes: split it")
            yield line
    except OSError as error:  # which would be taken for one of the output
        raise UserError(f"cannot read {name}: {error.strerror}") from None


def read_request(
    completer: Completer, line: bytes, name: str, number: int, defaults: dict[str, Any]
) -> Request:
    """Read and check line `number` of the input `name`. A mistake in it goes into the request's
    record, and to stderr.
    """
    request = Request(number)
    try:
        request.record = record = parse_record(line)
        if not isinstance(record.get("prompt"), str):
            raise UserError('there is no prompt: expected an object like {"prompt": "ROMEO:"}')
        for key in record:
            check_choice("key", key, _KEYS)
        own = {name: record[name] for name in _OPTIONS if record.get(name) is not None}
        options = {"num_samples": 1, "stream": False, **defaults, **own}
        request.num_samples, request.stream = options.pop("num_samples"), options.pop("stream")
        request.options = options
        _check_options(request, completer)
    except UserError as error:
        request.record["error"] = f"{name}:{number}: {one_line(error)}"
        print(f"error: {request.record['error']}", file=sys.stderr)
    return request


def parse_record(line: bytes) -> Record:
    """Return the line's object without what an answer adds; an empty one for other JSON. A
    `UserError` says that it is not JSON.
    """
    text = decode_utf8(line, "the line")
    try:
        record = json.loads(text, parse_int=_finite, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the line is not JSON: {one_line(error)}") from None
    found = record if isinstance(record, dict) else {}
    return {key: value for key, value in found.items() if key not in _ADDED}


def _finite(text: str) -> float:
    """Refuse numbers that JSON cannot represent, and integers that no float can."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:80]} is not a finite number")
    return int(text) if text.lstrip("-").isdigit() else number


def _check_options(request: Request, completer: Completer) -> None:
    if request.options.get("stop") is not None:
        check_type(str | list, stop=request.options["stop"])  # and not an object's keys
    # Checks all other types and values, and computes nothing yet.
    prompt = request.record["prompt"]
    completer.stream(prompt, num_samples=request.num_samples, **request.options)
    check_type(bool, stream=request.stream)
    if request.stream and request.num_samples > 1:
        raise UserError(f"stream is true and num_samples is {request.num_samples}: expected 1")


def _complete_together(requests: list[Request], completer: Completer) -> None:
    """Add its completion to each record; requests with the same options are completed together."""
    groups: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        if not request.failed:
            groups[json.dumps(request.options, sort_keys=True)].append(request)
    for group in groups.values():
        texts = completer.complete([r.record["prompt"] for r in group], **group[0].options)
        for request, text in zip(group, texts, strict=True):
            request.record["completion"] = text


def _complete_alone(request: Request, completer: Completer, output: TextIO) -> None:
    """Add several completions to the record; or one, after writing each piece of it as a line."""
    record, options = request.record, request.options
    if not request.stream:
        record["completions"] = completer.complete(
            record["prompt"], num_samples=request.num_samples, **options
        )
        return
    whose = {key: value for key, value in record.items() if key == "id"}
    pieces = []
    for piece in completer.stream(record["prompt"], **options):
        _write({**whose, "line": request.line, "piece": piece}, output)
        pieces.append(piece)
    record["completion"] = "".join(pieces)


def _write(record: Record, output: TextIO) -> None:
    output.write(json.dumps(record, ensure_ascii=False) + "\n")
    output.flush()
