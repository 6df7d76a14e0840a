"""Many prompts as JSON lines, and their completions as JSON lines.

Enters: lines like {"prompt": "ROMEO:", "temperature": 0.5, "id": 7}; the options in a line override
those of the command line, and "id" is any value. Leaves: the same objects in the same order, each
with its completion or an error: a line that cannot be completed does not stop the others. A line
with "stream": true first gets lines like {"id": 7, "line": 1, "piece": " But"}, each as soon as its
text is certain; "line" is the line's number in the input.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TextIO

from shakespeare_lm.commands.json_request import Request, read_request
from shakespeare_lm.commands.text_files import STDIN, stdin
from shakespeare_lm.completion.completer import Completer

# Lines of a file that are completed together and then written. Those of stdin are answered one by
# one: the writer may be waiting for the answer.
_LINES_TOGETHER = 64


def complete_lines(
    completer: Completer, path: str, output: TextIO, defaults: dict[str, Any]
) -> int:
    """Complete the prompt of every line of a file, or of stdin for `-`.

    One sample becomes "completion", a text; several become "completions", a list. Blank lines are
    dropped.

    Args:
        completer: completes the prompts.
        path: of the file.
        output: where the answers go.
        defaults: options of `Completer.complete`, for lines that do not have their own.

    Returns:
        The exit code: 1 if a line could not be completed; stderr and the line's object say which.

    Raises:
        OSError: if the file cannot be read, or the output cannot be written.
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


def _complete(requests: list[Request], completer: Completer, output: TextIO) -> None:
    """Complete and write several requests, or one that has to be completed alone."""
    first = requests[0]
    if not first.alone:
        _complete_together(requests, completer)
    elif first.stream:
        _complete_in_pieces(first, completer, output)
    else:
        _complete_several_times(first, completer)
    _write([request.record for request in requests], output)


def _complete_together(requests: list[Request], completer: Completer) -> None:
    """Add the completion to the record of each request; those with the same options are completed
    together.
    """
    groups: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        if not request.failed:
            groups[json.dumps(request.options, sort_keys=True)].append(request)
    for group in groups.values():
        texts = completer.complete([r.prompt for r in group], **group[0].options)
        for request, text in zip(group, texts, strict=True):
            request.record["completion"] = text


def _complete_several_times(request: Request, completer: Completer) -> None:
    request.record["completions"] = completer.complete(
        request.prompt, num_samples=request.num_samples, **request.options
    )


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
