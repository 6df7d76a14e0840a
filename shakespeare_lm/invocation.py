"""How this program was started, so that the commands that it prints can be pasted."""

import shlex
import sys
import time
from pathlib import Path

STARTED = time.time()  # of this process, nearly: commands import this file first
COMMANDS = {
    "fit": "train a model",
    "compare": "train variants over the same seeds, and say which are better",
    "sweep": "search ranges of options, then compare the best",
    "complete": "complete a prompt with a trained model",
    "score": "say how likely a model finds a text",
    "evaluate": "say how good a model is, and against what",
    "page": "make one HTML page that runs a model in any browser",
    "export": "write a model in a form that other programs load",
    "serve": "serve a model over HTTP",
    "runs": "list the runs in a folder",
}


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
