"""The progress bar: in a terminal only, and only for what takes long."""

import io
import math
import sys

import pytest

from shakespeare_lm.commands import progress_bar as module
from shakespeare_lm.commands.progress_bar import progress_bar


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def drawn(stderr: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch, seconds: float) -> str:
    """Return what is on stderr after some work."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(module, "_SECONDS_WITHOUT_BAR", seconds)
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress_bar("scoring") as progress:
        for done in range(3):
            progress(done + 1, 3)
    return stderr.buffer.getvalue().decode()  # type: ignore[attr-defined]


def test_what_takes_long_shows_its_progress_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminals = [Terminal(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    text = drawn(terminals[0], monkeypatch, 0.0)
    assert "scoring" in text
    assert "100%" in text
    assert drawn(terminals[1], monkeypatch, math.inf) == ""


def test_without_a_terminal_there_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    assert drawn(pipe, monkeypatch, 0.0) == ""
