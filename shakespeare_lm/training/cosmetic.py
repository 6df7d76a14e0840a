"""Pictures and samples, whose failure must not end a run."""

from collections.abc import Callable
from functools import wraps
from traceback import walk_tb
from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_warn

from shakespeare_lm.errors import one_line


def cosmetic(hook: Callable[..., None]) -> Callable[..., None]:
    """Make a failure of a callback's hook a warning, and leave this callback out from then on.

    The command line puts such callbacks after those that save checkpoints.
    """

    @wraps(hook)
    def guarded(self: Callback, *arguments: Any, **options: Any) -> None:
        if getattr(self, "_failed", False):
            return
        try:
            hook(self, *arguments, **options)
        except Exception as error:
            self._failed = True  # type: ignore[attr-defined]
            *_, (frame, line) = walk_tb(error.__traceback__)
            rank_zero_warn(
                f"{type(self).__name__} failed and is left out of the rest of this run: "
                f"{type(error).__name__}: {one_line(error)} ({frame.f_code.co_filename}:{line})"
            )

    return guarded
