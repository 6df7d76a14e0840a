"""`scripts/complete.py` as its users meet it: what goes to stdout, and how mistakes end."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands.complete import main
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

SCRIPT = Path(__file__).parents[2] / "scripts" / "complete.py"
Run = Callable[..., tuple[int, str, str]]
VOCABULARY = "\n" + "".join(map(chr, range(32, 127))) + "é"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two runs, the newer of which has the best.ckpt that is meant."""
    folder = tmp_path_factory.mktemp("runs")
    for version in (0, 1):
        torch.manual_seed(version)
        module = ShakespeareLM(VOCABULARY, context_length=16, num_layers=1, num_heads=2, d_model=8)
        # Heads start at zero, and would make every text a random one.
        torch.nn.init.normal_(module.transformer.head.weight)
        path = folder / f"lightning_logs/version_{version}/checkpoints/best.ckpt"
        path.parent.mkdir(parents=True)
        save(path, module)
    return folder


def complete(folder: Path, *options: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        **more,
    )


def test_stdout_holds_the_prompt_and_its_completion_alone(folder: Path) -> None:
    done = complete(folder, "--prompt", "Café:", "--max_new_tokens", "40", "--seed", "1")
    assert done.returncode == 0
    assert done.stdout.startswith("Café:")
    assert len(done.stdout) == len("Café:") + 40 + 1
    assert done.stdout.endswith("\n")
    assert "version_1" in done.stderr


def test_a_reader_that_goes_away_ends_it_quietly(folder: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--max_new_tokens", "100000"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(5)) == 5  # text comes as it is made, long before the end
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command line in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)

    def run(*options: str, stdin: bytes = b"") -> tuple[int, str, str]:
        text = io.TextIOWrapper(io.BytesIO(stdin))
        out = io.TextIOWrapper(io.BytesIO(), write_through=True)
        monkeypatch.setattr(sys, "stdin", text)
        monkeypatch.setattr(sys, "stdout", out)
        try:
            code = main(list(options))
        except SystemExit as end:
            code = int(str(end.code))
        return code, out.buffer.getvalue().decode(), capfd.readouterr().err

    return run


def test_a_file_gets_what_stdout_would(inside: Run, tmp_path: Path) -> None:
    options = ("--prompt", "To", "--max_new_tokens", "20", "--num_samples", "2", "--seed", "3")
    _, printed, _ = inside(*options)
    assert inside(*options, "--output", str(tmp_path / "out.txt"))[1] == ""
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == printed
    first, second = printed.removesuffix("\n").split("\n\n---\n")
    assert first.startswith("To")
    assert second.startswith("To")
    assert first != second


def test_mistakes_are_one_line_exit_code_1_and_leave_no_file(inside: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    code, out, err = inside("--prompt", "a→b", "--output", str(output))
    assert (code, out) == (1, "")
    assert "(U+2192) at position 1 is not among the 97 characters" in err
    assert len(err.splitlines()) == 2  # which model, and the mistake
    assert not output.exists()


def test_wrong_usage_is_exit_code_2(inside: Run) -> None:
    code, _, err = inside("--nonsense")
    assert code == 2
    assert "unrecognized arguments: --nonsense" in err


def test_a_prompt_comes_from_a_file_or_from_stdin_just_as_it_is(
    inside: Run, tmp_path: Path
) -> None:
    text = "Two lines,\nand no end\n"
    (tmp_path / "prompt.txt").write_text(text)
    expected = inside("--prompt", text, "--seed=1", "--max_new_tokens=9")
    assert expected[0] == 0
    assert expected[1].startswith(text)
    for options in (
        ["--prompt_file", str(tmp_path / "prompt.txt")],
        ["--prompt_file=-"],
        ["--prompt=-"],
    ):
        assert inside(*options, "--seed=1", "--max_new_tokens=9", stdin=text.encode()) == expected


def test_several_stops_and_lines_end_it(inside: Run) -> None:
    plain = ("--prompt=To", "--seed=2", "--max_new_tokens=500", "--temperature=20")
    whole = inside(*plain)[1].removesuffix("\n")
    stop = whole[40:42]
    assert inside(*plain, "--stop=~~~", f"--stop={stop}")[1] == whole[: whole.index(stop, 2)] + "\n"
    lines = whole.split("\n")
    assert len(lines) > 2
    assert inside(*plain, "--max_lines=2")[1] == "\n".join(lines[:2]) + "\n"


def test_window_cache_and_filters_reach_the_model(inside: Run) -> None:
    plain = ("--prompt=To", "--seed=2", "--max_new_tokens=60", "--temperature=2")
    whole = inside(*plain)
    assert inside(*plain, "--no_cache") == whole
    for options in (
        ["--window=exact"],
        ["--min_p=0.9"],
        ["--top_k=2"],
        ["--top_p=0.1"],
        ["--greedy"],
    ):
        assert inside(*plain, *options)[1] != whole[1]
    assert inside(*plain, "--min_p=1") == inside(*plain, "--greedy") == inside(*plain, "--top_k=1")


def test_json_lines_keep_their_order_and_their_other_values(inside: Run) -> None:
    lines = [{"prompt": "To", "id": 7}, {"prompt": "Café"}, {"prompt": ""}]
    stdin = "\n\n".join(json.dumps(line) for line in lines).encode()
    code, out, _ = inside("--jsonl=-", "--seed=3", "--max_new_tokens=8", stdin=stdin)
    assert code == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert [{k: v for k, v in r.items() if k != "completion"} for r in records] == lines
    for line, record in zip(lines, records, strict=True):
        alone = inside("--prompt", line["prompt"], "--seed=3", "--max_new_tokens=8")[1]
        assert line["prompt"] + record["completion"] + "\n" == alone


def test_json_lines_have_lists_of_samples(inside: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    options = ("--num_samples=3", "--seed=0", "--max_new_tokens=5")
    output = tmp_path / "out.jsonl"
    assert inside("--jsonl", str(tmp_path / "in.jsonl"), *options, "--output", str(output))[0] == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    samples = inside("--prompt=b", *options)[1].removesuffix("\n").split("\n\n---\n")
    assert ["b" + text for text in records[1]["completions"]] == samples


def test_a_broken_line_is_named_and_the_others_are_answered(inside: Run, tmp_path: Path) -> None:
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
    code, out, err = inside("--jsonl", str(path), "--max_new_tokens=4")
    assert code == 1
    assert "Traceback" not in err
    records = [json.loads(line) for line in out.splitlines()]
    assert len(records) == len(lines)
    assert [n for n, record in enumerate(records) if "completion" in record] == [0, 11]
    for number, message in (
        (2, "is not JSON"),
        (3, "has no prompt"),
        (4, "has no prompt"),
        (5, "is not UTF-8: byte 0xFF at offset 12"),
        (6, "U+2192"),
        (7, "U+D800"),
        (8, "is not JSON"),
        (9, "is not JSON"),
        (10, "1e400 is no finite number"),
        (11, "NaN is no finite number"),
    ):
        assert f"{path}:{number}" in records[number - 1]["error"]
        assert message in records[number - 1]["error"]
        assert f"error: {records[number - 1]['error']}\n" in err
    assert records[5]["id"] == 1


def test_a_file_that_is_read_is_not_written_over(inside: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a"}\n')
    for option in ("--jsonl", "--prompt_file"):
        code, _, err = inside(option, str(path), "--output", str(path), "--unknown=skip")
        assert code == 1
        assert f"output is {path}, which is read" in err
        assert path.read_text() == '{"prompt": "a"}\n'


def test_marks_and_line_ends_of_windows_are_no_part_of_the_text(inside: Run) -> None:
    options = ("--seed=1", "--max_new_tokens=5")
    plain = inside("--prompt=To\nbe", *options)
    assert inside("--prompt_file=-", *options, stdin=b"\xef\xbb\xbfTo\r\nbe") == plain
    code, out, _ = inside("--jsonl=-", *options, stdin=b'\xef\xbb\xbf{"prompt": "To"}\r\n')
    assert code == 0
    assert json.loads(out)["prompt"] == "To"


def test_closed_streams_are_named(folder: Path) -> None:
    for option, message in (
        ("--prompt=- <&-", "stdin is closed"),
        ("--jsonl=- <&-", "stdin is closed"),
        ("--interactive <&-", "stdin is closed"),
        (">&-", "stdout is closed"),
    ):
        script = f"exec {sys.executable} {SCRIPT} {option}"
        done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_dash_is_stdout_and_more_characters_than_memory_has_may_be_asked_for(inside: Run) -> None:
    plain = inside("--prompt=a", "--seed=1", "--max_lines=1", "--top_k=50")
    huge = ("--max_new_tokens=99999999999999999999999", "--output=-")
    assert plain[0] == 0
    longer = inside("--prompt=a", "--seed=1", "--max_lines=1", "--top_k=50", *huge)
    assert longer[1].startswith(plain[1].removesuffix("\n"))


def test_a_conversation_goes_on_after_a_mistake(inside: Run) -> None:
    code, out, err = inside(
        "--interactive", "--max_new_tokens=6", "--seed=1", stdin="To\n→\nBe\n".encode()
    )
    assert code == 0
    answers = [inside(f"--prompt={p}", "--max_new_tokens=6", "--seed=1")[1] for p in ("To", "Be")]
    for prompt, answer in zip(("To", "Be"), answers, strict=True):
        assert answer.removeprefix(prompt) in out
    assert "U+2192" in err


def test_options_that_exclude_each_other_are_wrong_usage(inside: Run) -> None:
    for options in (
        ["--prompt=a", "--prompt_file=b"],
        ["--jsonl=a", "--interactive"],
        ["--interactive", "--output=a"],
        ["--interactive", "--num_samples=2"],
    ):
        assert inside(*options)[0] == 2


def test_what_was_made_before_ctrl_c_is_kept(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    command = [sys.executable, str(SCRIPT), "--max_new_tokens=10000000", "--num_samples=2"]
    with subprocess.Popen(
        [*command, "--output", str(output)], cwd=folder, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (output.exists() and output.stat().st_size > 50):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "Traceback" not in errors
    first, second = output.read_text().removesuffix("\n").split("\n\n---\n")
    assert len(first) == len(second) > 50


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
def test_a_full_disk_is_one_line_that_names_the_file(inside: Run) -> None:
    for options in (["--prompt=a"], ["--jsonl=-"]):
        code, _, err = inside(*options, "--output=/dev/full", stdin=b'{"prompt": "a"}')
        assert code == 1
        assert err.endswith("error: /dev/full: No space left on device\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ckpt=none.ckpt"], "there is no checkpoint none.ckpt"),
        (["--temperature=-1"], "temperature is -1.0"),
        (["--top_p=2"], "top_p is 2.0"),
        (["--min_p=0"], "min_p is 0.0"),
        (["--top_k=0"], "top_k is 0"),
        (["--max_new_tokens=-1"], "max_new_tokens is -1"),
        (["--max_lines=0"], "max_lines is 0"),
        (["--num_samples=0"], "num_samples is 0"),
        (["--num_samples=1000000000"], "num_samples is 1000000000: at most 1024"),
        (["--jsonl="], "Is a directory"),
        (["--ckpt="], "there is no checkpoint"),
        (["--stop="], "stop is an empty text"),
        (["--device=cuda"], "device is cuda: not available here"),
        (["--prompt_file=none.txt"], "none.txt: No such file or directory"),
        (["--prompt_file=."], ".: Is a directory"),
        (["--jsonl=none.jsonl"], "none.jsonl: No such file or directory"),
        (["--jsonl=none.jsonl", "--top_k=0"], "top_k is 0"),
        (["--interactive", "--top_k=0"], "top_k is 0"),
        (["--output=no/such/folder/file"], "no/such/folder/file: No such file or directory"),
    ],
)
def test_every_option_out_of_range_is_named(
    inside: Run, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = inside(*options)
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


def test_a_prompt_that_is_not_utf_8_is_refused(inside: Run, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"abc\xe9def")
    code, out, err = inside("--prompt_file", str(tmp_path / "prompt.txt"))
    assert (code, out) == (1, "")
    assert "prompt.txt is not UTF-8: byte 0xE9 at offset 3" in err
