"""Many prompts as JSON lines, and their completions as JSON lines.

Enters: lines like {"prompt": "ROMEO:"}. Leaves: the same objects in the same order, each with its
completion or an error: a line that cannot be completed does not stop the others.
"""

import json
import math
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from shakespeare_lm.commands.shared import STDIN, stdin
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.text import decode_utf8
from shakespeare_lm.errors import UserError, one_line

# Lines of a file that are completed together and then written. Those of stdin are answered one by
# one: the writer may be waiting for the answer.
_LINES_TOGETHER = 64

_ADDED = ("completion", "completions", "error")


def complete_lines(
    completer: Completer, path: str, output: TextIO, num_samples: int, options: dict[str, Any]
) -> int:
    """Complete the prompt of every line of a file, or of stdin for `-`.

    One sample becomes "completion", a text; several become "completions", a list. Blank lines are
    dropped.

    Returns:
        The exit code: 1 if a line could not be completed; stderr and the line's object say which.

    Raises:
        OSError: if the file cannot be read, or the output cannot be written.
    """
    name = "stdin" if path == STDIN else path
    failed = False
    together = _LINES_TOGETHER if num_samples == 1 and path != STDIN else 1
    with nullcontext(stdin().buffer) if path == STDIN else Path(path).open("rb") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        while some := list(islice(lines, together)):
            records = [_record(completer, f"{name}:{n}", line, options) for n, line in some]
            good = [record for record in records if "error" not in record]
            _complete(good, completer, num_samples, options)
            _write(records, output)
            failed = failed or any("error" in record for record in records)
    return int(failed)


def _record(
    completer: Completer, place: str, line: bytes, options: dict[str, Any]
) -> dict[str, Any]:
    """Return a line's object; if it cannot be completed, with an "error" that names the line."""
    record: Any = {}
    try:
        record = _parsed(line, place)
        completer.tokenizer.encode(record["prompt"], options["unknown"])
    except UserError as error:
        message = one_line(error) if str(error).startswith(place) else f"{place}: {one_line(error)}"
        print(f"error: {message}", file=sys.stderr)
        return {**record, "error": message}
    return record


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    text = decode_utf8(line, place)
    try:
        record = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {one_line(error)}") from None
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise UserError(f'{place} has no prompt: expected an object like {{"prompt": "ROMEO:"}}')
    return {key: value for key, value in record.items() if key not in _ADDED}


def _finite(text: str) -> float:
    """Refuse numbers that JSON cannot represent."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _complete(
    records: list[dict[str, Any]], completer: Completer, num_samples: int, options: dict[str, Any]
) -> None:
    """Add the completion to every record."""
    prompts = [record["prompt"] for record in records]
    if num_samples == 1:
        for record, text in zip(records, completer.complete(prompts, **options), strict=True):
            record["completion"] = text
        return
    for record, prompt in zip(records, prompts, strict=True):
        record["completions"] = completer.complete(prompt, num_samples=num_samples, **options)


def _write(records: Iterable[dict[str, Any]], output: TextIO) -> None:
    for record in records:
        output.write(json.dumps(record, ensure_ascii=False) + "\n")
    output.flush()
