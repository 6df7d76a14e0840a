"""A progress bar for what takes long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

# A progress bar for less than this would only flicker.
_SECONDS_WITHOUT_BAR = 2.0


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that is told how much of how much is done. If it takes long, and stderr is a
    terminal, it draws a progress bar there.
    """
    console = Console(stderr=True)
    # Only the file knows: a variable like FORCE_COLOR makes rich take a pipe for a terminal.
    hidden = not (console.file.isatty() and console.is_interactive)
    bar = Progress(console=console, transient=True, disable=hidden)
    task, started = bar.add_task(description), time.monotonic()

    def draw(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if time.monotonic() - started >= _SECONDS_WITHOUT_BAR:
            bar.start()

    try:
        yield draw
    finally:
        bar.stop()
