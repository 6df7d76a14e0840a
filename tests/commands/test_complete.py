"""The command `complete` as its users meet it: what goes to stdout, and how mistakes end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.commands.conftest import RunComplete

SCRIPT = Path(__file__).parents[2] / "scripts" / "complete.py"


def complete(runs: Path, *options: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        cwd=runs,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        **more,
    )


def test_stdout_holds_the_prompt_and_its_completion_alone(runs: Path) -> None:
    done = complete(runs, "--prompt", "Café:", "--max_new_tokens", "40", "--seed", "1")
    assert done.returncode == 0
    assert done.stdout.startswith("Café:")
    assert len(done.stdout) == len("Café:") + 40 + 1
    assert done.stdout.endswith("\n")
    assert "version_1" in done.stderr


def test_a_closed_pipe_ends_it_quietly(runs: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--max_new_tokens", "100000"]
    with subprocess.Popen(
        command, cwd=runs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(5)) == 5  # text comes as it is made, long before the end
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


def test_a_file_gets_what_stdout_would(run_complete: RunComplete, tmp_path: Path) -> None:
    options = ("--prompt", "To", "--max_new_tokens", "20", "--num_samples", "2", "--seed", "3")
    _, printed, _ = run_complete(*options)
    assert run_complete(*options, "--output", str(tmp_path / "out.txt"))[1] == ""
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == printed
    first, second = printed.removesuffix("\n").split("\n\n---\n")
    assert first.startswith("To")
    assert second.startswith("To")
    assert first != second


def test_mistakes_are_one_line_exit_code_1_and_leave_no_file(
    run_complete: RunComplete, tmp_path: Path
) -> None:
    output = tmp_path / "out.txt"
    code, out, err = run_complete("--prompt", "a→b", "--output", str(output))
    assert (code, out) == (1, "")
    assert "(U+2192) at position 1 is not among the 97 characters" in err
    assert len(err.splitlines()) == 2  # which model, and the mistake
    assert not output.exists()


def test_wrong_usage_is_exit_code_2(run_complete: RunComplete) -> None:
    code, _, err = run_complete("--nonsense")
    assert code == 2
    assert "unrecognized arguments: --nonsense" in err


def test_a_prompt_comes_from_a_file_or_from_stdin_unchanged(
    run_complete: RunComplete, tmp_path: Path
) -> None:
    text = "Two lines,\nand no end\n"
    (tmp_path / "prompt.txt").write_text(text)
    expected = run_complete("--prompt", text, "--seed=1", "--max_new_tokens=9")
    assert expected[0] == 0
    assert expected[1].startswith(text)
    for options in (
        ["--prompt_file", str(tmp_path / "prompt.txt")],
        ["--prompt_file=-"],
        ["--prompt=-"],
    ):
        assert (
            run_complete(*options, "--seed=1", "--max_new_tokens=9", stdin=text.encode())
            == expected
        )


def test_several_stops_and_lines_end_it(run_complete: RunComplete) -> None:
    plain = ("--prompt=To", "--seed=2", "--max_new_tokens=500", "--temperature=20")
    whole = run_complete(*plain)[1].removesuffix("\n")
    stop = whole[40:42]
    assert (
        run_complete(*plain, "--stop=~~~", f"--stop={stop}")[1]
        == whole[: whole.index(stop, 2)] + "\n"
    )
    lines = whole.split("\n")
    assert len(lines) > 2
    assert run_complete(*plain, "--max_lines=2")[1] == "\n".join(lines[:2]) + "\n"


def test_window_cache_and_filters_reach_the_model(run_complete: RunComplete) -> None:
    plain = ("--prompt=To", "--seed=2", "--max_new_tokens=60", "--temperature=2")
    whole = run_complete(*plain)
    assert run_complete(*plain, "--no_cache") == whole
    for options in (
        ["--window=exact"],
        ["--min_p=0.9"],
        ["--top_k=2"],
        ["--top_p=0.1"],
        ["--greedy"],
    ):
        assert run_complete(*plain, *options)[1] != whole[1]
    assert (
        run_complete(*plain, "--min_p=1")
        == run_complete(*plain, "--greedy")
        == run_complete(*plain, "--top_k=1")
    )


def test_an_input_file_is_not_overwritten(run_complete: RunComplete, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a"}\n')
    for option in ("--jsonl", "--prompt_file"):
        code, _, err = run_complete(option, str(path), "--output", str(path), "--unknown=skip")
        assert code == 1
        assert f"output is {path}, which is an input" in err
        assert path.read_text() == '{"prompt": "a"}\n'


def test_a_checkpoint_is_not_overwritten(run_complete: RunComplete) -> None:
    older, newer = (f"lightning_logs/version_{n}/checkpoints/best.ckpt" for n in (0, 1))
    for options, output, what in (
        ([], newer, "an input"),
        (["--ckpt", older], older, "an input"),
        ([], older, "a checkpoint"),
    ):
        code, _, err = run_complete("--prompt=a", *options, "--output", output)
        assert code == 1
        assert f"output is {output}, which is {what}" in err
    assert run_complete("--prompt=a", "--max_new_tokens=3")[0] == 0, "the checkpoint is damaged"


def test_dash_is_stdout_and_max_new_tokens_may_exceed_the_memory(
    run_complete: RunComplete,
) -> None:
    options = ("--prompt=a", "--seed=1", "--max_lines=1", "--temperature=20")
    plain = run_complete(*options)
    assert plain[0] == 0
    huge = ("--max_new_tokens=99999999999999999999999", "--output=-")
    assert run_complete(*options, *huge)[1].startswith(plain[1].removesuffix("\n"))


def test_an_interactive_session_continues_after_a_mistake(run_complete: RunComplete) -> None:
    code, out, err = run_complete(
        "--interactive", "--max_new_tokens=6", "--seed=1", stdin="To\n→\nBe\n".encode()
    )
    assert code == 0
    answers = [
        run_complete(f"--prompt={p}", "--max_new_tokens=6", "--seed=1")[1] for p in ("To", "Be")
    ]
    for prompt, answer in zip(("To", "Be"), answers, strict=True):
        assert answer.removeprefix(prompt) in out
    assert "U+2192" in err


def test_options_that_exclude_each_other_are_wrong_usage(run_complete: RunComplete) -> None:
    for options in (
        ["--prompt=a", "--prompt_file=b"],
        ["--jsonl=a", "--interactive"],
        ["--interactive", "--output=a"],
        ["--interactive", "--num_samples=2"],
    ):
        assert run_complete(*options)[0] == 2


def test_text_made_before_ctrl_c_is_kept(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    command = [sys.executable, str(SCRIPT), "--max_new_tokens=10000000", "--num_samples=2"]
    with subprocess.Popen(
        [*command, "--output", str(output)], cwd=runs, stderr=subprocess.PIPE, text=True
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ckpt=none.ckpt"], "there is no checkpoint none.ckpt"),
        (["--temperature=-1"], "temperature is -1.0: expected a value >= 0"),
        (["--top_p=2"], "top_p is 2.0: expected 0 < top_p <= 1"),
        (["--min_p=0"], "min_p is 0.0"),
        (["--top_k=0"], "top_k is 0"),
        (["--max_new_tokens=-1"], "max_new_tokens is -1"),
        (["--max_lines=0"], "max_lines is 0"),
        (["--num_samples=0"], "num_samples is 0"),
        (["--num_samples=1000000000"], "num_samples is 1000000000: expected at most 1024"),
        (["--jsonl="], "Is a directory"),
        (["--ckpt="], "there is no checkpoint"),
        (["--stop="], "stop is an empty string"),
        (["--device=cuda"], "device is cuda: not available here; choose from: auto, cpu"),
        (["--prompt_file=none.txt"], "none.txt: No such file or directory"),
        (["--prompt_file=."], ".: Is a directory"),
        (["--jsonl=none.jsonl"], "none.jsonl: No such file or directory"),
        (["--jsonl=none.jsonl", "--top_k=0"], "top_k is 0"),
        (["--interactive", "--top_k=0"], "top_k is 0"),
        (["--output=no/such/folder/file"], "no/such/folder/file: No such file or directory"),
    ],
)
def test_every_option_out_of_range_is_named(
    run_complete: RunComplete, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = run_complete(*options)
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err
