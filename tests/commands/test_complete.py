"""The command `complete` as its users meet it: what goes to stdout, conversations, and how mistakes
end. Many prompts as JSON lines are in `test_jsonl.py`.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.commands.conftest import contents, run_process

SCRIPT = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "complete.py")]
SHORT = ("--seed=1", "--max_new_tokens=9")


def test_stdout_holds_the_prompt_and_its_completion_alone(runs):
    command = [*SCRIPT, "--prompt", "Café:", "--max_new_tokens=40", "--seed=1"]
    done = run_process(command, runs, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.startswith("Café:")
    assert len(done.stdout) == len("Café:") + 40 + 1
    assert done.stdout.endswith("\n")
    assert "version_1" in done.stderr


def test_a_closed_pipe_ends_it_quietly(runs):
    command = [*SCRIPT, "--max_new_tokens", "100000"]
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


def test_text_made_before_ctrl_c_is_kept(runs, tmp_path):
    output = tmp_path / "out.txt"
    command = [*SCRIPT, "--max_new_tokens=100000", "--num_samples=2", "--output", str(output)]
    with subprocess.Popen(command, cwd=runs, stderr=subprocess.PIPE, text=True) as process:
        while not (output.exists() and output.stat().st_size > 50):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "Traceback" not in errors
    first, second = output.read_text().removesuffix("\n").split("\n\n---\n")
    # The signal can come between the two of one step.
    assert abs(len(first) - len(second)) <= 1
    assert len(first) > 50


def test_help_shows_each_default_once(run_complete):
    with pytest.raises(SystemExit):
        run_complete("--help")
    shown = " ".join(sys.stdout.buffer.getvalue().decode().split())  # type: ignore[attr-defined]
    assert "0 greedy (default: 0.8) --top_k" in shown
    assert "--greedy always take the most likely character --temperature" in shown
    assert "by commas (default: the newest run's best) --device" in shown


def test_a_prompt_comes_from_a_file_or_from_stdin_unchanged(run_complete, tmp_path):
    text = "Two lines,\nand no end\n"
    (tmp_path / "prompt.txt").write_text(text)
    expected = run_complete("--prompt", text, *SHORT)
    assert expected[0] == 0
    assert expected[1].startswith(text)
    for option in (f"--prompt_file={tmp_path / 'prompt.txt'}", "--prompt_file=-", "--prompt=-"):
        assert run_complete(option, *SHORT, stdin=text.encode()) == expected
    # Marks and line ends of Windows are not part of the prompt.
    marked = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    assert run_complete("--prompt=-", *SHORT, stdin=marked) == expected


def test_several_checkpoints_are_one_model(run_complete):
    both = ("--ckpt", f"{OLDER},{NEWER}", "--prompt=To", "--greedy", "--max_new_tokens=20")
    code, text, errors = run_complete(*both)
    assert (code, errors) == (0, f"model: the ensemble of {OLDER}, {NEWER}\n")
    assert text == run_complete(*both, "--no_cache")[1] != run_complete(*both[2:])[1]


def test_several_stops_and_lines_end_it_and_max_new_tokens_may_exceed_the_memory(run_complete):
    plain = ("--prompt=To", "--seed=2", "--max_new_tokens=500", "--temperature=20")
    whole = run_complete(*plain)[1].removesuffix("\n")
    stop = whole[40:42]
    stopped = run_complete(*plain, "--stop=~~~", f"--stop={stop}")[1]
    assert stopped == whole[: whole.index(stop, 2)] + "\n"
    lines = whole.split("\n")
    assert len(lines) > 2
    for more in ([], ["--max_new_tokens=99999999999999999999999"]):
        assert run_complete(*plain, "--max_lines=2", *more)[1] == "\n".join(lines[:2]) + "\n"


def test_window_cache_and_filters_reach_the_model(run_complete):
    plain = ("--prompt=To", "--seed=2", "--max_new_tokens=60", "--temperature=2")
    whole = run_complete(*plain)
    assert run_complete(*plain, "--no_cache") == whole
    for option in ("--window=exact", "--min_p=0.9", "--top_k=2", "--top_p=0.1", "--greedy"):
        assert run_complete(*plain, option)[1] != whole[1]
    greedy, *same = (run_complete(*plain, o) for o in ("--greedy", "--min_p=1", "--top_k=1"))
    assert same == [greedy, greedy]


def test_a_conversation_through_a_pipe_continues_after_a_mistake(run_complete):
    code, out, err = run_complete(
        "--interactive", *SHORT, stdin="To\n→\n".encode() + b"\xff\n:temp 0\n"
    )
    assert code == 0
    answers = [run_complete(f"--prompt={p}", *SHORT)[1] for p in ("To", ":temp 0")]
    assert out == answers[0].removeprefix("To") + answers[1].removeprefix(":temp 0")
    assert "U+2192" in err
    assert r"'\udcff'" in err
    assert ":help" not in err


def test_in_a_terminal_lines_with_a_colon_change_the_options(run_complete):
    lines = "To\n:temp 20\n:seed 5\nTo\n:temp 0\nTo\n:quit\nunread"
    code, out, err = run_complete("--interactive", *SHORT, stdin=lines.encode(), terminal=True)
    assert code == 0
    shown = "".join(
        f"{prompts}{run_complete('--prompt=To', *SHORT, *options)[1].removeprefix('To')}"
        for prompts, options in (
            ("> ", ()),
            ("> > > ", ("--temperature=20", "--seed=5")),
            ("> > ", ("--greedy",)),
        )
    )
    assert out == f"{shown}> "
    assert err.splitlines()[1:] == ["Type a beginning, or :temp 0.5, :seed 3, :help, :quit."]


ANSWERS = {
    ":tmp 1": "error: unknown command :tmp: did you mean :temp?",
    ":what": "error: unknown command :what: :help shows them",
    ":temp": "error: :temp: expected a number, as in :temp 3.0",
    ":temp ٣": "error: :temp ٣: expected a number, as in :temp 3.0",
    ":seed 1_0": "error: :seed 1_0: expected a number, as in :seed 3",
    ":temp -1": "error: temperature is -1.0: expected a value >= 0",
    ":temp nan": "error: temperature is nan: expected a value >= 0",
    ":seed 1.5": "error: :seed 1.5: expected a number, as in :seed 3",
    ":help": "Type a beginning, or :temp 0.5, :seed 3, :help, :quit.",
}


def test_a_wrong_line_with_a_colon_is_answered_with_one(run_complete):
    lines = "\n".join(ANSWERS).encode()
    code, out, err = run_complete("--interactive", stdin=lines, terminal=True)
    assert (code, out) == (0, "> " * (len(ANSWERS) + 1))
    assert err.splitlines()[2:] == list(ANSWERS.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # An abbreviation, and what nothing is similar to.
        ("--max_new_token=5 --nonsense", "unknown argument --nonsense"),
        ("--max_token 5", "unknown argument --max_token: did you mean --max_new_tokens?"),
        ("--max-new-tokens=5", "unknown argument --max-new-tokens: did you mean --max_new_tokens?"),
        ("--seeds", "unknown argument --seeds: did you mean --seed?"),
        ("--temprature=5", "unknown argument --temprature: did you mean --temperature?"),
        ("ROMEO", "unknown argument ROMEO"),
        ("--top_k=many", "argument --top_k: invalid int value: 'many' (try shakespeare-lm"),
        ("--prompt=a --prompt_file=b", "argument --prompt_file: not allowed with argument"),
        ("--top_k=1_0", "argument --top_k: invalid int value: '1_0'"),
        ("--seed=٣", "argument --seed: invalid int value: '٣'"),
        ("--top_p=.٣", "argument --top_p: invalid float value: '.٣'"),
        ("--prompt=a\udcff", r"argument --prompt: invalid utf8 value: 'a\udcff'"),
        ("--stop=\udcff", r"argument --stop: invalid utf8 value: '\udcff'"),
        ("--jsonl=a --interactive", "argument --interactive: not allowed with argument --jsonl"),
        ("--interactive --output=a", "--interactive cannot be combined with --output"),
        ("--interactive --num_samples=2", "--interactive cannot be combined with --output"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run_complete, options, message):
    code, out, err = run_complete(*options.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1


BROKEN = "/proc/self/mem"  # cannot be read at its start
NEEDS_PROC = pytest.mark.skipif(not Path(BROKEN).exists(), reason="needs /proc")
OLDER, NEWER = (f"lightning_logs/version_{n}/checkpoints/best.ckpt" for n in (0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--prompt=a→b --output=out.txt", "(U+2192) at position 1 is not among the 97 characters"),
        ("--ckpt=none.ckpt", "there is no checkpoint none.ckpt"),
        ("--ckpt=", "there is no checkpoint"),
        ("--top_k=0 --output=out.txt", "top_k is 0"),
        ("--num_samples=1000000000", "num_samples is 1000000000: expected at most 1024"),
        ("--device=cuda", "device is cuda: not available here; choose from: auto, cpu"),
        ("--prompt_file=none.txt", "none.txt: No such file or directory"),
        ("--prompt_file=.", ".: Is a directory"),
        ("--prompt_file=latin.txt", "latin.txt is not UTF-8 text: invalid byte 0xE9 at offset 3"),
        pytest.param(f"--prompt_file={BROKEN}", f"{BROKEN}: Input/output error", marks=NEEDS_PROC),
        pytest.param(f"--jsonl={BROKEN}", f"cannot read {BROKEN}: Input/", marks=NEEDS_PROC),
        ("--jsonl=", "Is a directory"),
        ("--jsonl=none.jsonl --output=out.txt", "none.jsonl: No such file or directory"),
        ("--jsonl=none.jsonl --top_k=0", "top_k is 0"),
        ("--interactive --top_k=0", "top_k is 0"),
        ("--output=no/such/folder/file", "no/such/folder/file: No such file or directory"),
        ("--jsonl in.jsonl --output in.jsonl", "output is in.jsonl, which is an input"),
        ("--prompt_file=in.jsonl --unknown=skip --output=in.jsonl", "which is an input"),
        (f"--output {NEWER}", f"output is {NEWER}, which is an input"),
        (f"--ckpt {OLDER} --output {OLDER}", f"output is {OLDER}, which is an input"),
        (f"--output {OLDER}", f"output is {OLDER}, which is a model"),
    ],
)
def test_mistakes_are_one_line_and_change_no_file(run_complete, monkeypatch, options, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("latin.txt").write_bytes(b"abc\xe9def")
    Path("in.jsonl").write_text('{"prompt": "a"}\n')
    before = contents()
    code, out, err = run_complete(*options.split())
    assert (code, out) == (1, "")
    assert message in err
    errors = [line for line in err.splitlines() if not line.startswith("model: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert before == contents()
