"""One line of JSON: whose option wins, and which mistakes are named how."""

import json
from pathlib import Path

import pytest

from shakespeare_lm.commands.json_request import Request, read_request
from shakespeare_lm.completion.completer import Completer

DEFAULTS = {"temperature": 0.8, "seed": 3, "stop": ["x"], "num_samples": 1}


@pytest.fixture(scope="module")
def completer(runs: Path) -> Completer:
    return Completer.from_checkpoint(runs / "lightning_logs/version_1/checkpoints/best.ckpt")


def read(completer: Completer, content: dict[str, object] | bytes) -> Request:
    line = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_request(completer, line, "in.jsonl", 4, DEFAULTS)


def test_the_options_of_a_line_override_those_of_the_command_line(completer: Completer) -> None:
    own = {"temperature": 2, "top_k": 3, "stop": [], "seed": None, "num_samples": 2}
    request = read(completer, {"prompt": "a", "id": {"any": ["value"]}, **own})
    assert request.options == {"temperature": 2, "top_k": 3, "stop": [], "seed": 3}
    assert (request.line, request.prompt, request.num_samples) == (4, "a", 2)
    assert request.record == {"prompt": "a", "id": {"any": ["value"]}, **own}
    assert not request.stream
    assert not request.failed


def test_what_an_earlier_run_added_is_dropped(completer: Completer) -> None:
    earlier = {"prompt": "a", "completion": "x", "completions": ["x"], "error": "x", "id": 1}
    assert read(completer, earlier).record == {"prompt": "a", "id": 1}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"temperature": "hot"}, "temperature is 'hot': expected float"),
        ({"temperature": True}, "temperature is True: expected float"),
        ({"temperature": -1}, "temperature is -1: expected a value >= 0"),
        ({"greedy": 1}, "greedy is 1: expected bool"),
        ({"top_k": 2.0}, "top_k is 2.0: expected int"),
        ({"top_k": True}, "top_k is True: expected int"),
        ({"top_p": 2}, "top_p is 2: expected 0 < top_p <= 1"),
        ({"min_p": [1]}, "min_p is [1]: expected float"),
        ({"max_new_tokens": "9"}, "max_new_tokens is '9': expected int"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1: expected a value >= 0"),
        ({"max_lines": 0}, "max_lines is 0: expected a value >= 1"),
        ({"stop": {"a": 1}}, "stop is {'a': 1}: expected str or list"),
        ({"stop": ["a", 1]}, "stop[1] is 1: expected str"),
        ({"stop": ""}, "stop is an empty string"),
        ({"seed": 1.5}, "seed is 1.5: expected int"),
        ({"unknown": "drop"}, "unknown is 'drop': choose from: error, skip, replace"),
        ({"unknown": ["skip"]}, "unknown is \"['skip']\": choose from: error, skip, replace"),
        ({"num_samples": "2"}, "num_samples is '2': expected int"),
        ({"num_samples": 10**12}, "num_samples is 1000000000000: expected at most 1024"),
        ({"stream": "yes"}, "stream is 'yes': expected bool"),
        ({"stream": True, "num_samples": 2}, "stream is true and num_samples is 2: expected 1"),
    ],
)
def test_a_wrong_option_is_named(
    completer: Completer,
    own: dict[str, object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = read(completer, {"prompt": "a", "id": 7, **own})
    assert request.failed
    assert not request.alone
    assert {k: v for k, v in request.record.items() if k != "error"} == {
        "prompt": "a",
        "id": 7,
        **own,
    }
    assert request.record["error"].startswith(f"in.jsonl:4: {message}")
    assert capsys.readouterr().err == f"error: {request.record['error']}\n"


def test_an_unknown_key_is_named_with_those_that_there_are(completer: Completer) -> None:
    error = read(completer, {"prompt": "a", "temprature": 1}).record["error"]
    assert error.startswith("in.jsonl:4 has an unknown key 'temprature': choose from: prompt, id, ")
    for name in ("temperature", "top_k", "stop", "unknown", "num_samples", "stream"):
        assert name in error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken", "in.jsonl:4 is not JSON"),
        (b"[" * 100_000, "in.jsonl:4 is not JSON"),
        (b'["prompt"]', "in.jsonl:4 has no prompt"),
        (b'{"id": 1}', "in.jsonl:4 has no prompt"),
        (b'{"prompt": 5}', "in.jsonl:4 has no prompt"),
        (b'{"prompt": "\xff"}', "in.jsonl:4 is not UTF-8 text: invalid byte 0xFF at offset 12"),
        (rb'{"prompt": "\ud800"}', "in.jsonl:4: the character"),
        (b'{"prompt": "a", "temperature": 1e400}', "1e400 is not a finite number"),
        (b'{"prompt": "a", "temperature": 1' + b"0" * 400 + b"}", "is not a finite number"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "is not a finite number"),
        (b'{"prompt": "a", "id": NaN}', "NaN is not a finite number"),
    ],
)
def test_a_broken_line_is_named(completer: Completer, line: bytes, message: str) -> None:
    error = read(completer, line).record["error"]
    assert message in error
    assert len(error) < 300


def test_an_object_without_a_prompt_keeps_its_id(completer: Completer) -> None:
    assert read(completer, {"prompt": 5, "id": 1}).record["id"] == 1
