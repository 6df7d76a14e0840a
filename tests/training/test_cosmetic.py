"""Hooks that only show something: a failure is one warning."""

import pytest
from pytorch_lightning import Callback

from shakespeare_lm.training.cosmetic import cosmetic


class Shows(Callback):
    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []

    @cosmetic
    def show(self, number: int, name: str = "a") -> None:
        self.calls.append((number, name))
        if number > 1:
            raise IndexError("out of\nrange")


def test_a_hook_gets_its_arguments_and_fails_once() -> None:
    shows = Shows()
    shows.show(1, name="b")
    with pytest.warns(UserWarning, match="left out of the rest of this run") as caught:
        shows.show(2)
    (warning,) = caught
    expected = "Shows failed and is left out of the rest of this run: IndexError: out of range ("
    assert str(warning.message).startswith(expected)
    assert "test_cosmetic.py:" in str(warning.message)
    shows.show(3)
    assert shows.calls == [(1, "b"), (2, "a")]
    Shows().show(1)


def test_ctrl_c_is_no_failure() -> None:
    class Interrupted(Callback):
        @cosmetic
        def show(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted().show()
