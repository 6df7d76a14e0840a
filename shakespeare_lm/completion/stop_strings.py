"""Where a completion ends: at a text to stop at, or after so many lines.

Enters: characters, one by one. Leaves: the text before the end, held back no longer than needed.
"""

from collections.abc import Sequence

from shakespeare_lm.errors import UserError


class Ending:
    """Watches one text grow.

    Args:
        stop: texts any of which ends it; it is not part of the completion.
        max_lines: how many lines to make, the one that the prompt began included.

    Raises:
        UserError: for an empty text to stop at, or no lines.
    """

    def __init__(self, stop: Sequence[str] = (), max_lines: int | None = None) -> None:
        if "" in stop:
            raise UserError("stop is an empty text: at least one character is needed")
        if max_lines is not None and max_lines < 1:
            raise UserError(f"max_lines is {max_lines}: accepted is 1 or more")
        self.reached = False
        self._stop = tuple(stop)
        self._lines_left = max_lines
        self._held = ""

    def add(self, character: str) -> str:
        """Take the next character, and return what can be shown by now: what is no beginning of a
        text to stop at.
        """
        if self.reached:
            return ""
        self._held += character
        if character == "\n" and self._lines_left is not None:
            self._lines_left -= 1
        stops = [text for text in self._stop if self._held.endswith(text)]
        if stops or self._lines_left == 0:
            self.reached = True
            shown = self._held.removesuffix(max(stops, key=len) if stops else "\n")
            self._held = ""
            return shown
        return self._release(self._beginning_of_a_stop())

    def rest(self) -> str:
        """Return what was held back and turned out to be no text to stop at: nothing came after
        it.
        """
        return self._release(0)

    def _release(self, hold: int) -> str:
        cut = len(self._held) - hold
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _beginning_of_a_stop(self) -> int:
        """Return how many of the last characters could still become a text to stop at."""
        longest = max((len(text) - 1 for text in self._stop), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-size:]) for text in self._stop):
                return size
        return 0
