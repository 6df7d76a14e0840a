"""Many prompts as JSON lines: order, samples, groups, pieces, and when answers are written; whose
option wins in a line, and which mistakes are named how.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shakespeare_lm.commands import jsonl
from shakespeare_lm.commands.jsonl import complete_lines, read_request
from shakespeare_lm.completion.completer import Completer

OPTIONS: dict[str, Any] = {"max_new_tokens": 4, "seed": 3}
LINE_DEFAULTS = {"temperature": 0.8, "seed": 3, "stop": ["x"], "num_samples": 1}

Record = dict[str, Any]
Answered = Callable[..., tuple[int, list[Record]]]


@pytest.fixture(scope="module")
def completer(runs):
    return Completer.from_checkpoint(runs / "lightning_logs/version_1/checkpoints/best.ckpt")


@pytest.fixture
def answered(completer, tmp_path, monkeypatch):
    """Return a function that completes the lines of a file: exit code, answers."""
    monkeypatch.chdir(tmp_path)

    def answer(lines: list[Record], between: str = "\n", **options: Any) -> tuple[int, list]:
        output = io.StringIO()
        Path("in.jsonl").write_text(between + between.join(json.dumps(line) for line in lines))
        with Path("in.jsonl").open("rb") as lines:
            code = complete_lines(completer, "in.jsonl", lines, output, {**OPTIONS, **options})
        return code, [json.loads(line) for line in output.getvalue().splitlines()]

    return answer


def test_json_lines_keep_their_order_and_other_values(run_complete, tmp_path):
    lines = [{"prompt": "To", "id": 7}, {"prompt": "Café"}, {"prompt": ""}]
    # A mark and line ends of Windows are not part of a line.
    stdin = ("\ufeff" + "\r\n\r\n".join(json.dumps(line) for line in lines)).encode()
    for count, key in ((1, "completion"), (3, "completions")):
        options = (f"--num_samples={count}", "--seed=3", "--max_new_tokens=8")
        output = tmp_path / f"{count}.jsonl"
        printed = run_complete("--jsonl=-", *options, stdin=stdin)
        assert run_complete("--jsonl=-", *options, f"--output={output}", stdin=stdin)[:2] == (0, "")
        assert printed[:2] == (0, output.read_text(encoding="utf-8"))
        for line, answer in zip(lines, printed[1].splitlines(), strict=True):
            record = json.loads(answer)
            texts = record.pop(key)
            assert record == line
            samples = [line["prompt"] + text for text in ([texts] if count == 1 else texts)]
            alone = run_complete("--prompt", line["prompt"], *options)[1]
            assert alone == "\n\n---\n".join(samples) + "\n"


def test_the_lines_of_stdin_are_answered_one_by_one(completer):
    output = io.StringIO()

    def questions() -> Iterator[bytes]:
        for number in range(3):
            assert len(output.getvalue().splitlines()) == number  # all before it are answered
            yield b'{"prompt": "a"}\n'

    waiting = questions()
    lines = SimpleNamespace(readline=lambda limit: next(waiting, b""))
    assert complete_lines(completer, "-", lines, output, OPTIONS) == 0
    assert len(output.getvalue().splitlines()) == 3


def test_lines_with_the_same_options_are_completed_together(answered, completer, monkeypatch):
    groups: list[tuple[str, object]] = []
    complete = completer.complete

    def counted(prompts: list[str], **options: object) -> list[str]:
        groups.append(("".join(prompts), options["seed"]))
        return complete(prompts, **options)

    monkeypatch.setattr(completer, "complete", counted)
    monkeypatch.setattr(jsonl, "_LINES_TOGETHER", 4)
    own: list[Record] = [{"seed": 1}, {"seed": 0}, {"seed": 1}, {"stop": None}, {}, {"seed": 0}]
    lines = [{"prompt": prompt, **more} for prompt, more in zip("abcdef", own, strict=True)]
    code, records = answered(lines)
    assert (code, groups) == (0, [("ac", 1), ("b", 0), ("d", 3), ("e", 3), ("f", 0)])
    for line, record in zip(lines, records, strict=True):
        alone = complete(line["prompt"], **{**OPTIONS, "seed": line.get("seed", 3)})
        assert record == {**line, "completion": alone}


def test_blank_lines_and_results_of_an_earlier_run_are_dropped(answered, completer):
    earlier = {"prompt": "a", "completion": "x", "completions": ["x"], "error": "x", "id": 1}
    texts = completer.complete("a", num_samples=2, **OPTIONS)
    new = {"prompt": "a", "id": 1, "completions": texts}
    assert answered([earlier, earlier], "\n  \n\n", num_samples=2) == (0, [new, new])


def test_a_line_has_its_own_options_and_gets_the_text_that_it_would_get_alone(answered, completer):
    own: list[Record] = [
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
    code, records = answered(lines)
    assert code == 0
    for line, record in zip(lines, records, strict=True):
        given = {k: v for k, v in line.items() if k not in ("prompt", "id") and v is not None}
        alone = completer.complete(str(line["prompt"]), **{**OPTIONS, **given})
        assert record == {**line, "completion": alone}
    assert len({record["completion"] for record in records}) > 4


def test_a_line_overrides_the_number_of_samples(answered, completer):
    lines = [{"prompt": "a"}, {"prompt": "a", "num_samples": 3}, {"prompt": "a", "num_samples": 1}]
    for default in (1, 2):
        _, records = answered(lines, num_samples=default)
        samples = completer.complete("a", num_samples=3, **OPTIONS)
        assert records[0].get("completions", [records[0].get("completion")]) == samples[:default]
        assert records[1]["completions"] == samples
        assert records[2]["completion"] == samples[0]


def test_pieces_are_written_as_they_are_made(completer, monkeypatch):
    lines = io.BytesIO(b'\n{"prompt": "a"}\n{"prompt": "b", "id": "x", "stream": true}\n')
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
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
    assert complete_lines(completer, "in.jsonl", lines, output, OPTIONS) == 0
    assert output.buffer.getvalue().decode().splitlines() == expected


def test_a_mistake_in_a_line_stops_neither_the_lines_before_nor_those_after_it(answered, capsys):
    own: list[Record] = [{}, {"temprature": 1}, {"stream": True}, {"num_samples": "2"}, {}]
    code, records = answered([{"prompt": "a", "id": id, **more} for id, more in enumerate(own, 1)])
    assert code == 1
    finished = [record for record in records if "piece" not in record]
    assert [record["id"] for record in finished] == [1, 2, 3, 4, 5]
    errors = {record["id"]: record["error"] for record in finished if "error" in record}
    assert errors.keys() == {2, 4}
    assert errors[4] == "in.jsonl:5: num_samples is '2': expected int or None"
    assert capsys.readouterr().err == f"error: {errors[2]}\nerror: {errors[4]}\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": "hot"}, "temperature is 'hot': expected float"),
        ({"temperature": True}, "temperature is True: expected float"),
        ({"stop": {"a": 1}}, "stop is {'a': 1}: expected str or list"),
        ({"stop": ["a", 1]}, "stop[1] is 1: expected str"),
        ({"unknown": "drop"}, "unknown is 'drop': choose from: error, skip, replace"),
        ({"unknown": ["skip"]}, "unknown is \"['skip']\": choose from: error, skip, replace"),
        ({"num_samples": 10**12}, "num_samples is 1000000000000: expected at most 1024"),
        ({"stream": "yes"}, "stream is 'yes': expected bool"),
        ({"stream": True, "num_samples": 2}, "stream is true and num_samples is 2: expected 1"),
        ({"temprature": 1}, "key is 'temprature': choose from: prompt, id, greedy, temperature, "
         "top_k, top_p, min_p, max_new_tokens, max_lines, stop, seed, unknown, num_samples, "
         "stream"),
        ({"prompt": 5}, 'there is no prompt: expected an object like {"prompt": "ROMEO:"}'),
        ({"prompt": "→"}, "the character '→' (U+2192)"),
        (b"{broken", "the line is not JSON: "),
        (b"[" * 100_000, "the line is not JSON: "),
        (b'["prompt"]', "there is no prompt"),
        (b'{"id": 1}', "there is no prompt"),
        (b'{"prompt": "\xff"}', "the line is not UTF-8 text: invalid byte 0xFF at off"),
        (rb'{"prompt": "\ud800"}', "the character"),
        (b'{"a": 1e400}', "the line is not JSON: 1e400 is not a finite number"),
        (b'{"a": 1' + b"0" * 400 + b"}", "the line is not JSON: 1000000000000000000000000"),
        (b'{"a": ' + b"9" * 5000 + b"}", "the line is not JSON: 9999999999999999999999999999999"),
        (b'{"prompt": "a", "id": NaN}', "the line is not JSON: NaN is not a finite number"),
    ],
)  # fmt: skip
def test_a_wrong_line_or_value_is_named(completer, given, message, capsys):
    whole: Record = {"prompt": "a", "id": 7, **(given if isinstance(given, dict) else {})}
    line = given if isinstance(given, bytes) else json.dumps(whole).encode()
    request = read_request(completer, line, "in.jsonl", 4, LINE_DEFAULTS)
    assert request.failed
    assert not request.alone
    error = request.record.pop("error")
    assert error.startswith(f"in.jsonl:4: {message}")
    assert len(error) < 300
    assert capsys.readouterr().err == f"error: {error}\n"
    if isinstance(given, dict):
        assert request.record == whole
