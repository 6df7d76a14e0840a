"""Many prompts as JSON lines: order, samples, broken lines, and when answers are written."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from shakespeare_lm.commands import jsonl
from shakespeare_lm.commands.jsonl import complete_lines
from shakespeare_lm.completion.completer import Completer
from tests.commands.conftest import RunComplete

OPTIONS = {"max_new_tokens": 4, "seed": 3, "unknown": "error"}


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
        b'{"prompt": "a", "x": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "x": 1e400}',
        b'{"prompt": "a", "x": NaN}',
        b'{"prompt": "b"}',
    ]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(lines))
    code, out, err = run_complete("--jsonl", str(path), "--max_new_tokens=4")
    assert code == 1
    assert "Traceback" not in err
    records = [json.loads(line) for line in out.splitlines()]
    assert len(records) == len(lines)
    assert [n for n, record in enumerate(records) if "completion" in record] == [0, 11]
    for number, message in (
        (2, "is not JSON"),
        (3, "has no prompt"),
        (4, "has no prompt"),
        (5, "is not UTF-8 text: invalid byte 0xFF at offset 12"),
        (6, "U+2192"),
        (7, "U+D800"),
        (8, "is not JSON"),
        (9, "is not JSON"),
        (10, "1e400 is not a finite number"),
        (11, "NaN is not a finite number"),
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
    assert complete_lines(completer, "-", output, 1, OPTIONS) == 0
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
    assert complete_lines(completer, str(path), output, 1, OPTIONS) == 0
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
    assert complete_lines(completer, str(path), output, 2, OPTIONS) == 0
    record = json.loads(output.getvalue())
    assert record.keys() == {"prompt", "id", "completions"}
    assert record["completions"] == completer.complete("a", num_samples=2, **OPTIONS)


def test_unknown_characters_can_be_skipped(
    completer: Completer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a→"}\n', encoding="utf-8")
    output = io.StringIO()
    assert complete_lines(completer, str(path), output, 1, {**OPTIONS, "unknown": "skip"}) == 0
    expected = completer.complete("a", **OPTIONS)
    assert json.loads(output.getvalue()) == {"prompt": "a→", "completion": expected}
    assert capsys.readouterr().err == ""
