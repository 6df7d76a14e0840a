"""Many prompts as JSON lines: order, samples, groups, pieces, and when answers are written; whose
option wins in a line, and which mistakes are named how.
"""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from shakespeare_lm.commands import jsonl
from shakespeare_lm.commands.jsonl import Request, complete_lines, read_request
from shakespeare_lm.completion.completer import Completer
from tests.commands.conftest import RunComplete

OPTIONS = {"max_new_tokens": 4, "seed": 3}
LINE_DEFAULTS = {"temperature": 0.8, "seed": 3, "stop": ["x"], "num_samples": 1}


@pytest.fixture(scope="module")
def completer(runs: Path) -> Completer:
    return Completer.from_checkpoint(runs / "lightning_logs/version_1/checkpoints/best.ckpt")


def test_json_lines_keep_their_order_and_their_other_values(run_complete: RunComplete) -> None:
    lines = [{"prompt": "To", "id": 7}, {"prompt": "Café"}, {"prompt": ""}]
    stdin = "\n\n".join(json.dumps(line) for line in lines).encode()
    code, out, _ = run_complete("--jsonl=-", "--seed=3", "--max_new_tokens=8", stdin=stdin)
    assert code == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert [{k: v for k, v in r.items() if k != "completion"} for r in records] == lines
    for line, record in zip(lines, records, strict=True):
        alone = run_complete("--prompt", line["prompt"], "--seed=3", "--max_new_tokens=8")[1]
        assert line["prompt"] + record["completion"] + "\n" == alone


def test_json_lines_have_lists_of_samples(run_complete: RunComplete, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    options = ("--num_samples=3", "--seed=0", "--max_new_tokens=5")
    output = tmp_path / "out.jsonl"
    assert (
        run_complete("--jsonl", str(tmp_path / "in.jsonl"), *options, "--output", str(output))[0]
        == 0
    )
    records = [json.loads(line) for line in output.read_text().splitlines()]
    samples = run_complete("--prompt=b", *options)[1].removesuffix("\n").split("\n\n---\n")
    assert ["b" + text for text in records[1]["completions"]] == samples


def test_a_broken_line_is_named_and_the_others_are_answered(
    run_complete: RunComplete, tmp_path: Path
) -> None:
    lines = [
        b'{"prompt": "a"}',
        b"{broken",
        b'["prompt"]',
        b'{"prompt": 5}',
        b'{"prompt": "\xff"}',
        '{"prompt": "→", "id": 1}'.encode(),
        rb'{"prompt": "\ud800"}',
        b"[" * 100_000,
        b'{"prompt": "b"}',
    ]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(lines))
    code, out, err = run_complete("--jsonl", str(path), "--max_new_tokens=4")
    assert code == 1
    assert "Traceback" not in err
    records = [json.loads(line) for line in out.splitlines()]
    assert len(records) == len(lines)
    assert [n for n, record in enumerate(records) if "completion" in record] == [0, 8]
    for number, message in (
        (2, "is not JSON"),
        (3, "has no prompt"),
        (4, "has no prompt"),
        (5, "is not UTF-8 text: invalid byte 0xFF at offset 12"),
        (6, "U+2192"),
        (7, "U+D800"),
        (8, "is not JSON"),
    ):
        assert f"{path}:{number}" in records[number - 1]["error"]
        assert message in records[number - 1]["error"]
        assert f"error: {records[number - 1]['error']}\n" in err
    assert records[5]["id"] == 1


def test_marks_and_line_ends_of_windows_are_not_part_of_a_line(
    run_complete: RunComplete,
) -> None:
    options = ("--seed=1", "--max_new_tokens=5")
    lines = b'\xef\xbb\xbf{"prompt": "To"}\r\n'
    code, out, _ = run_complete("--jsonl=-", *options, stdin=lines)
    assert code == 0
    assert json.loads(out)["prompt"] == "To"


def test_the_lines_of_stdin_are_answered_one_by_one(
    completer: Completer, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.StringIO()

    def questions() -> Iterator[bytes]:
        for number in range(3):
            assert len(output.getvalue().splitlines()) == number  # all before it are answered
            yield b'{"prompt": "a"}\n'

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=questions()))
    assert complete_lines(completer, "-", output, OPTIONS) == 0
    assert len(output.getvalue().splitlines()) == 3


def test_the_lines_of_a_file_are_completed_in_groups_and_get_the_same_texts(
    completer: Completer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["a", "Café", "", "To be", "b"]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    groups: list[list[str]] = []
    complete = completer.complete

    def counted(some: list[str], **options: object) -> list[str]:
        groups.append(some)
        return complete(some, **options)

    monkeypatch.setattr(completer, "complete", counted)
    monkeypatch.setattr(jsonl, "_LINES_TOGETHER", 2)
    output = io.StringIO()
    assert complete_lines(completer, str(path), output, OPTIONS) == 0
    assert groups == [["a", "Café"], ["", "To be"], ["b"]]
    records = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [record["completion"] for record in records] == complete(prompts, **OPTIONS)


def test_blank_lines_and_results_of_an_earlier_run_are_dropped(
    completer: Completer, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    earlier = {"prompt": "a", "completion": "x", "completions": ["x"], "error": "x", "id": 1}
    path.write_text(f"\n  \n{json.dumps(earlier)}\n\n")
    output = io.StringIO()
    assert complete_lines(completer, str(path), output, {**OPTIONS, "num_samples": 2}) == 0
    record = json.loads(output.getvalue())
    assert record.keys() == {"prompt", "id", "completions"}
    assert record["completions"] == completer.complete("a", num_samples=2, **OPTIONS)


def test_unknown_characters_can_be_skipped(
    completer: Completer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a→"}\n', encoding="utf-8")
    output = io.StringIO()
    assert complete_lines(completer, str(path), output, {**OPTIONS, "unknown": "skip"}) == 0
    expected = completer.complete("a", **OPTIONS)
    assert json.loads(output.getvalue()) == {"prompt": "a→", "completion": expected}
    assert capsys.readouterr().err == ""


def answered(
    completer: Completer, tmp_path: Path, lines: list[dict[str, object]], **options: object
) -> tuple[int, list[dict[str, object]]]:
    path, output = tmp_path / "in.jsonl", io.StringIO()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = complete_lines(completer, str(path), output, {**OPTIONS, **options})
    return code, [json.loads(line) for line in output.getvalue().splitlines()]


def test_a_line_has_its_own_options_and_gets_the_text_that_it_would_get_alone(
    completer: Completer, tmp_path: Path
) -> None:
    own: list[dict[str, object]] = [
        {},
        {"greedy": True, "temperature": None},
        {"temperature": 3, "seed": 5, "max_new_tokens": 30},
        {"top_k": 5, "top_p": 0.9, "min_p": 0.01},
        {"stop": "e"},
        {"stop": ["\n", "a"], "max_lines": 1, "max_new_tokens": 200},
        {"prompt": "a→", "unknown": "skip"},
        {},
    ]
    lines = [{"prompt": "To", "id": [number], **options} for number, options in enumerate(own)]
    code, records = answered(completer, tmp_path, lines)
    assert code == 0
    for line, record in zip(lines, records, strict=True):
        assert {k: v for k, v in record.items() if k != "completion"} == line
        given = {k: v for k, v in line.items() if k not in ("prompt", "id") and v is not None}
        alone = completer.complete(str(line["prompt"]), **{**OPTIONS, **given})
        assert record["completion"] == alone
    assert len({str(record["completion"]) for record in records}) > 4


def test_a_line_overrides_the_number_of_samples(completer: Completer, tmp_path: Path) -> None:
    lines = [{"prompt": "a"}, {"prompt": "a", "num_samples": 3}, {"prompt": "a", "num_samples": 1}]
    for default in (1, 2):
        _, records = answered(completer, tmp_path, lines, num_samples=default)
        samples = completer.complete("a", num_samples=3, **OPTIONS)
        assert records[0].get("completions", [records[0].get("completion")]) == samples[:default]
        assert records[1]["completions"] == samples
        assert records[2]["completion"] == samples[0]


def test_the_lines_with_the_same_options_are_completed_together(
    completer: Completer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"prompt": p, "seed": ord(p) % 2} for p in "abcd"] + [{"prompt": "e", "stop": None}]
    groups: list[tuple[list[str], object]] = []

    def record_group(prompts: list[str], **options: object) -> list[str]:
        groups.append((prompts, options["seed"]))
        return [f"after {prompt}" for prompt in prompts]

    monkeypatch.setattr(completer, "complete", record_group)
    _, records = answered(completer, tmp_path, lines)
    assert groups == [(["a", "c"], 1), (["b", "d"], 0), (["e"], 3)]
    assert [record["completion"] for record in records] == [f"after {p}" for p in "abcde"]


def test_pieces_are_written_as_they_are_made(
    completer: Completer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = tmp_path / "in.jsonl", io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    path.write_text('\n{"prompt": "a"}\n{"prompt": "b", "id": "x", "stream": true}\n')
    whole = completer.complete("b", **OPTIONS)
    first = {"prompt": "a", "completion": completer.complete("a", **OPTIONS)}
    last = {"prompt": "b", "id": "x", "stream": True, "completion": whole}
    pieces = [{"id": "x", "line": 3, "piece": piece} for piece in whole]
    expected = [json.dumps(record, ensure_ascii=False) for record in [first, *pieces, last]]

    def watched(*_: object, **__: object) -> Iterator[str]:
        for number, piece in enumerate(whole):
            assert output.buffer.getvalue().decode().splitlines() == expected[: number + 1]
            yield piece

    monkeypatch.setattr(completer, "stream", watched)
    assert complete_lines(completer, str(path), output, OPTIONS) == 0
    assert output.buffer.getvalue().decode().splitlines() == expected


def test_a_mistake_in_a_line_stops_neither_the_lines_before_nor_those_after_it(
    completer: Completer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"prompt": "a", "id": 1},
        {"prompt": "a", "id": 2, "temprature": 1},
        {"prompt": "a", "id": 3, "stream": True},
        {"prompt": "a", "id": 4, "stream": True, "num_samples": 2},
        {"prompt": "a", "id": 5},
    ]
    code, records = answered(completer, tmp_path, lines)
    assert code == 1
    finished = [record for record in records if "piece" not in record]
    assert [record["id"] for record in finished] == [1, 2, 3, 4, 5]
    errors = {record["id"]: record["error"] for record in finished if "error" in record}
    path = tmp_path / "in.jsonl"
    assert str(errors.pop(2)).startswith(f"{path}:2 has an unknown key 'temprature': choose from: ")
    assert errors == {4: f"{path}:4: stream is true and num_samples is 2: expected 1"}
    assert len(capsys.readouterr().err.splitlines()) == 2


def read(completer: Completer, content: dict[str, object] | bytes) -> Request:
    line = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_request(completer, line, "in.jsonl", 4, LINE_DEFAULTS)


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
