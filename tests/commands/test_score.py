"""The command `score` as its users meet it: figures, JSON, colours."""

import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from shakespeare_lm.commands import score
from shakespeare_lm.commands.score import alternative_lines, coloured
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.scoring import Score

TEXT = "To be,\nor not to be; that is all.\n"
CKPT = "lightning_logs/version_1/checkpoints/best.ckpt"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def checkpoint(runs):
    return runs / CKPT


@pytest.fixture
def run_score(checkpoint, tmp_path, monkeypatch, capsys):
    """Return a function that runs the command beside text.txt: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)

    def run(*options: str) -> tuple[int, str, str]:
        code = score.main(["--ckpt", str(checkpoint), *options])
        return code, *capsys.readouterr()

    return run


def figures(checkpoint: Path | str) -> list[str]:
    score = Completer.from_checkpoint(checkpoint).score(TEXT)
    return [
        f"characters          {len(TEXT) - 1} (all but the first)",
        f"total               {score.total_nats:.4f} nats",
        f"bits per character  {score.bits_per_character:.4f}",
        f"perplexity          {score.perplexity:.4f}",
    ]


def test_a_text_from_stdin_or_an_option_is_summed_up(checkpoint, run_score, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    for option in ("-", f"--text={TEXT}"):
        code, out, err = run_score(option)
        assert (code, out.splitlines()) == (0, figures(checkpoint))
        assert err == f"model: {checkpoint}\n"


def test_json_has_one_item_per_character(run_score):
    assert run_score("text.txt", "--json", "--top=2", "--output", "out.json")[:2] == (0, "")
    content = json.loads(Path("out.json").read_text())
    assert content["text"] == TEXT
    assert content["characters"] == len(TEXT) - 1
    assert content["log_probabilities"][0] is content["alternatives"][0] is None
    assert len(content["log_probabilities"]) == len(content["alternatives"]) == len(TEXT)
    assert -sum(content["log_probabilities"][1:]) == pytest.approx(content["total_nats"])
    assert all(len(best) == 2 for best in content["alternatives"][1:])


def test_an_adaptive_model_learns_from_what_it_has_read(checkpoint, run_score):
    code, out, _ = run_score("text.txt", "--adaptive", "--json", "--top=2")
    assert code == 0
    found = json.loads(out)
    completer = Completer.from_checkpoint(checkpoint)
    ids = completer.tokenizer.encode(TEXT)
    rows = completer.predictor(adaptive=True).read(ids)
    expected = [row[i] for row, i in zip(rows, ids[1:], strict=True)]
    assert found["log_probabilities"][1:] == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(completer.score(TEXT).log_probabilities, rel=1e-2)


def test_several_checkpoints_are_one_model(checkpoint, run_score):
    both = f"{checkpoint},{str(checkpoint).replace('version_1', 'version_0')}"
    code, out, _ = run_score("text.txt", "--ckpt", both)
    assert (code, out.splitlines()) == (0, figures(both))


def test_in_a_terminal_the_text_is_shown_in_colours_and_a_file_gets_none(run_score, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, shown, _ = run_score("text.txt")
    assert code == 0
    for part in ("\x1b[", "surprise in bits", "perplexity"):
        assert part in shown
    assert run_score("text.txt", "--output", "out.txt")[0] == 0
    assert Path("out.txt").read_text().startswith("characters")


def test_progress_is_told(run_score, monkeypatch):
    seen: list[tuple[int, int]] = []

    @contextmanager
    def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: seen.append((done, total))

    monkeypatch.setattr(score, "progress_bar", progress_bar)
    assert run_score("text.txt")[0] == 0
    assert seen[-1][0] == seen[-1][1] > 0


def test_colours_follow_the_surprise():
    bits = [0.5, 2.0, 4.0, 6.0, 9.0, 9.0, 0.1, 0.1]
    score = Score("abcdef\n\n\x1b", [-b * math.log(2) for b in bits], [])
    shown = coloured(score)
    assert shown.plain == "abcdef↵\n\n\\x1b"
    styles = {shown.plain[span.start]: span.style for span in shown.spans}
    assert "b" not in styles
    assert len({styles[character] for character in "cdef"}) == 4
    assert styles["f"] == styles["↵"]


def test_the_alternatives_are_listed(run_score):
    code, out, _ = run_score("text.txt", "--top=1")
    assert (code, len(out.splitlines())) == (0, len(TEXT) - 1 + 4)
    score = Score("a\n", [math.log(0.25)], [[("b", math.log(0.75)), ("\n", math.log(0.25))]])
    (line,) = alternative_lines(score)
    assert " ".join(line.split()) == "1 '\\n' 0.250 likeliest 'b' 0.750 '\\n' 0.250"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("text.txt --top=99", 1, "top is 99: expected 0 <= top <= 97"),
        ("text.txt --ckpt=none.ckpt", 1, "there is no checkpoint none.ckpt"),
        ("text.txt --adaptive --window=exact", 1, "--adaptive has windows of its own: leave"),
        ("text.txt --adaptive --dtype=int8", 1, "an adaptive model learns, which needs float32"),
        ("empty.txt --adaptive", 1, "the text has 0 known characters"),
        ("text.txt --output=no/folder/file", 1, "no/folder/file: No such file or directory"),
        ("none.txt", 1, "none.txt: No such file or directory"),
        ("empty.txt", 1, "the text has 0 known characters"),
        ("latin.txt", 1, "is not UTF-8 text: invalid byte 0xFF at offset 2"),
        ("--text=Ω", 1, "'Ω' (U+03A9) at position 0"),
        ("text.txt --output text.txt", 1, "output is text.txt, which is an input"),
        ("--text=\udcff", 2, r"argument --text: invalid utf8 value: '\udcff'"),
        ("text.txt --text=To", 2, "argument --text: not allowed with argument FILE"),
        ("--top=1", 2, "one of the arguments FILE --text is required"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(run_score, options, code, message):
    Path("empty.txt").write_text("")
    Path("latin.txt").write_bytes(b"To\xff")
    got, out, err = run_score(*options.split())
    assert (got, out) == (code, "")
    assert message in err
    assert err.count("error: ") == 1
