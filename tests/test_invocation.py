"""What users are told to type exists where they are."""

import sys

import pytest

from shakespeare_lm.invocation import command_line


@pytest.mark.parametrize(
    ("started", "shown"),
    [
        ("scripts/fit.py", "python scripts/complete.py"),
        ("score.py", "python complete.py"),
        ("/my scripts/fit.py", "python '/my scripts/complete.py'"),
        ("/env/lib/shakespeare_lm/__main__.py", "python -m shakespeare_lm complete"),
        ("/env/bin/shakespeare-lm", "shakespeare-lm complete"),
        ("", "shakespeare-lm complete"),
        ("my_program.py", "shakespeare-lm complete"),
    ],
)
def test_a_command_is_started_in_the_way_that_this_process_was(
    monkeypatch: pytest.MonkeyPatch, started: str, shown: str
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert command_line("complete") == shown
