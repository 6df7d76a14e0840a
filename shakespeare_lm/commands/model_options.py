"""Options that several commands have, each declared once."""

import sys
from argparse import Namespace, _ActionsContainer
from typing import Any, get_args

from shakespeare_lm.checkpoint.ensemble import find_members, model_name
from shakespeare_lm.commands.text_files import check_output
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.decoder import Window
from shakespeare_lm.data.tokenizer import Unknown
from shakespeare_lm.hardware import DEVICES, DTYPES

# fmt: off
_OPTIONS: dict[str, dict[str, Any]] = {
    "ckpt": {"metavar": "PATH",
        "help": "a checkpoint, or the folder of a run; complete, score and evaluate also average "
        "several, separated by commas (default: the newest run's best)"},
    "corpus": {"help": "another corpus than the checkpoint's, with the same split"},
    "device": {"choices": DEVICES, "default": "cpu", "help": "auto takes a GPU if there is one"},
    "dtype": {"choices": DTYPES, "default": "float32",
        "help": "of weights and cache (int8: of weights, on a CPU); auto takes the one that "
        "completes fastest"},
    "window": {"choices": get_args(Window), "default": "stride",
        "help": "a full context window restarts with its newer half (stride), or moves on by one "
        "character and is read again each time (exact)"},
    "unknown": {"choices": get_args(Unknown), "default": "error",
        "help": "characters never seen in training: refuse, drop, or replace with their plain form "
        "or a space"},
    "output": {"metavar": "FILE", "help": "write to FILE instead of stdout (-)"},
}
# fmt: on


def add_shared(parser: _ActionsContainer, *names: str, **changes: Any) -> None:
    """Add the shared options of these names; `changes` are arguments of `add_argument`."""
    for name in names:
        parser.add_argument(f"--{name}", **{**_OPTIONS[name], **changes})


def load_completer(arguments: Namespace, *inputs: str | None, compile: bool = False) -> Completer:
    """Load the given checkpoints, or the best of the newest run, and print its path to stderr, with
    its number format unless that is float32. A `UserError` says that it cannot be read, or that the
    output would overwrite a checkpoint or one of the other `inputs` of the command.
    """
    paths = find_members([arguments.ckpt])
    check_output(arguments.output, *paths, *inputs)
    completer = Completer.from_checkpoint(paths, arguments.device, arguments.dtype, compile)
    dtype = "" if completer.dtype == "float32" else f", in {completer.dtype}"
    compiling = ", compiling, which takes ten seconds or more" if compile else ""
    print(f"model: {model_name(paths)}{dtype}{compiling}", file=sys.stderr)
    return completer
