"""How this program was started, so that the commands that it prints can be pasted."""

import shlex
import sys
from pathlib import Path

COMMANDS = ("fit", "complete", "score", "evaluate", "page", "export", "serve")


def command_line(command: str) -> str:
    """Return how to start a command in the way that this process was started: as a script of the
    repository, with `python -m`, or by the installed program's name, which always exists.
    """
    started = Path(sys.argv[0])
    if started.suffix == ".py" and started.stem in COMMANDS:
        return f"python {shlex.quote(started.with_name(f'{command}.py').as_posix())}"
    return f"{program()} {command}"


def program() -> str:
    """Return how to start this program, without the name of a command."""
    as_module = Path(sys.argv[0]).name == "__main__.py"
    return "python -m shakespeare_lm" if as_module else "shakespeare-lm"
