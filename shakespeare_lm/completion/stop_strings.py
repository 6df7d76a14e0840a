"""Where a completion ends: before a stop string, or after a number of lines."""

from collections.abc import Sequence

from shakespeare_lm.errors import UserError, check_at_least, check_type


class StopStrings:
    """Watches one text grow, and releases each piece as soon as it cannot become a stop string.

    Args:
        stop: stop strings, any of which ends the text; none is part of the completion.
        max_lines: how many lines to make, including the one that the prompt began.

    Raises:
        UserError: for an empty stop string, or a number of lines that is not an integer > 0.
    """

    def __init__(self, stop: Sequence[str] = (), max_lines: int | None = None) -> None:
        if "" in stop:
            raise UserError("stop is an empty string: expected at least one character")
        check_type(int | None, max_lines=max_lines)
        check_at_least(1, max_lines=1 if max_lines is None else max_lines)
        self.reached = False
        self._stop, self._lines_left = tuple(stop), max_lines
        self._held = ""

    def add(self, character: str) -> str:
        """Take the next character; return the text that is released."""
        if self.reached:
            return ""
        self._held += character
        if character == "\n" and self._lines_left is not None:
            self._lines_left -= 1
        found = [text for text in self._stop if self._held.endswith(text)]
        if found or self._lines_left == 0:
            self.reached = True
            self._held = self._held.removesuffix(max(found, key=len, default="\n"))
            return self._release(0)
        return self._release(self._length_of_partial_match())

    def rest(self) -> str:
        """Return what was still held back when the text ended."""
        return self._release(0)

    def _release(self, hold: int) -> str:
        cut = len(self._held) - hold
        released, self._held = self._held[:cut], self._held[cut:]
        return released

    def _length_of_partial_match(self) -> int:
        """Return how many of the last characters could still become a stop string."""
        longest = max((len(text) - 1 for text in self._stop), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-size:]) for text in self._stop):
                return size
        return 0
