"""The command `score` as its users meet it: figures, JSON, colours."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from shakespeare_lm.commands import score
from shakespeare_lm.commands.score import alternative_lines, coloured, main
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.scoring import Score
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

SCRIPT = Path(__file__).parents[2] / "scripts" / "score.py"
TEXT = "To be,\nor not to be; that is all.\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    vocabulary = "".join(sorted(set(TEXT)))
    module = ShakespeareLM(vocabulary, context_length=16, num_layers=1, num_heads=2, d_model=8)
    torch.nn.init.normal_(module.network.head.weight)
    return save(tmp_path_factory.mktemp("run") / "best.ckpt", module)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_stdin_is_scored_and_summed_up(checkpoint: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--ckpt", str(checkpoint), "-"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        input=TEXT,
        capture_output=True,
        text=True,
        check=True,
    )
    score = Completer.from_checkpoint(checkpoint).score(TEXT)
    assert done.stdout.splitlines() == [
        f"characters          {len(TEXT) - 1} (all but the first)",
        f"total               {score.total_nats:.4f} nats",
        f"bits per character  {score.bits_per_character:.4f}",
        f"perplexity          {score.perplexity:.4f}",
    ]


def test_json_has_one_item_per_character(
    checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "out.json"
    options = ["--ckpt", str(checkpoint), str(text), "--json", "--top=2", "--output", str(output)]
    assert main(options) == 0
    assert capsys.readouterr().out == ""
    content = json.loads(output.read_text())
    assert content["text"] == TEXT
    assert content["characters"] == len(TEXT) - 1
    assert content["log_probabilities"][0] is content["alternatives"][0] is None
    assert len(content["log_probabilities"]) == len(content["alternatives"]) == len(TEXT)
    assert -sum(content["log_probabilities"][1:]) == pytest.approx(content["total_nats"])
    assert all(len(best) == 2 for best in content["alternatives"][1:])


def test_in_a_terminal_the_text_is_shown_in_colours(
    checkpoint: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["--ckpt", str(checkpoint), str(text)]) == 0
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "surprise in bits" in out
    assert "perplexity" in out


def test_a_file_gets_no_colours(
    checkpoint: Path, text: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = tmp_path / "out.txt"
    assert main(["--ckpt", str(checkpoint), str(text), "--output", str(output)]) == 0
    assert output.read_text().startswith("characters")


def test_progress_is_told(checkpoint: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    @contextmanager
    def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: seen.append((done, total))

    monkeypatch.setattr(score, "progress_bar", progress_bar)
    assert main(["--ckpt", str(checkpoint), str(text)]) == 0
    assert seen[-1][0] == seen[-1][1] > 0


def test_a_closed_pipe_ends_it_quietly(checkpoint: Path, text: Path) -> None:
    command = f"{sys.executable} {SCRIPT} --ckpt {checkpoint} {text} --top 5; echo $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"({command}) | true"], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "0"
    assert "Error" not in done.stderr


def test_colours_follow_the_surprise() -> None:
    bits = [0.5, 2.0, 4.0, 6.0, 9.0, 9.0, 0.1]
    score = Score("abcdef\n\n", [-b * math.log(2) for b in bits], [])
    shown = coloured(score)
    assert shown.plain == "abcdef↵\n\n"
    styles = {shown.plain[span.start]: span.style for span in shown.spans}
    assert "b" not in styles
    assert len({styles[character] for character in "cdef"}) == 4
    assert styles["f"] == styles["↵"]


def test_the_alternatives_are_listed(
    checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--ckpt", str(checkpoint), str(text), "--top=1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(TEXT) - 1 + 4
    score = Score("a\n", [math.log(0.25)], [[("b", math.log(0.75)), ("\n", math.log(0.25))]])
    (line,) = alternative_lines(score)
    assert " ".join(line.split()) == "1 '\\n' 0.250 likeliest 'b' 0.750 '\\n' 0.250"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top=99"], "top is 99: expected 0 <= top <= 1"),
        (["--ckpt=none.ckpt"], "there is no checkpoint none.ckpt"),
        (["--output=no/folder/file"], "no/folder/file: No such file or directory"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(
    checkpoint: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert main(["--ckpt", str(checkpoint), str(text), *options]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_texts_that_cannot_be_scored_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, message in (
        (b"", "the text has 0 known characters"),
        (b"To\xff", "is not UTF-8 text: invalid byte 0xFF at offset 2"),
        (b"To Z", "'Z' (U+005A) at position 3"),
    ):
        path = tmp_path / "bad.txt"
        path.write_bytes(content)
        assert main(["--ckpt", str(checkpoint), str(path)]) == 1
        assert message in capsys.readouterr().err
    assert main(["--ckpt", str(checkpoint), str(tmp_path / "none.txt")]) == 1
    assert "none.txt: No such file or directory" in capsys.readouterr().err
