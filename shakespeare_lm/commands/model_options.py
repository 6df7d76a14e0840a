"""Options that several commands share, so that they are declared once."""

import sys
from argparse import Namespace, _ActionsContainer
from typing import Any, get_args

from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.commands.text_files import check_output
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.decoder import Window
from shakespeare_lm.data.tokenizer import Unknown
from shakespeare_lm.hardware import DEVICES, DTYPES

# Keyword arguments of `add_argument`.
Option = dict[str, Any]
CKPT: Option = {
    "metavar": "PATH",
    "help": "a checkpoint, or the folder of a run (default: the newest run's best)",
}
CORPUS: Option = {"help": "another corpus than the checkpoint's, to measure val_loss on"}
DEVICE: Option = {
    "choices": DEVICES, "default": "cpu", "help": "auto takes a GPU if there is one (cpu)"
}  # fmt: skip
UNKNOWN: Option = {"choices": get_args(Unknown), "default": "error"}


def add_model_options(parser: _ActionsContainer, dtype: str) -> None:
    """Add the options that choose a checkpoint, its device, its number format (by default `dtype`),
    how it reads long and unknown texts, and where the output goes.
    """
    add = parser.add_argument
    # fmt: off
    add("--ckpt", **CKPT)
    add("--device", **DEVICE)
    add("--dtype", choices=DTYPES, default=dtype,
        help="of weights and cache (int8: of weights, on a CPU); auto takes the one that completes "
        f"fastest ({dtype})")
    add("--window", choices=get_args(Window), default="stride",
        help="a full context window restarts with its newer half (stride, the default), or moves "
        "on by one character and is read again each time (exact)")
    add("--unknown", **UNKNOWN,
        help="characters never seen in training: refuse, drop, or replace with their plain form or "
        "a space (default: error)")
    add("--output", metavar="FILE", help="write to FILE instead of stdout (-)")
    # fmt: on


def load_completer(arguments: Namespace, *inputs: str | None, compile: bool = False) -> Completer:
    """Load the given checkpoint, or the best of the newest run, and print its path to stderr, with
    its number format unless that is float32. A `UserError` says that it cannot be read, or that the
    output would overwrite a checkpoint or one of the other `inputs` of the command.
    """
    path = find_checkpoint(arguments.ckpt)
    check_output(arguments.output, path, *inputs)
    completer = Completer.from_checkpoint(path, arguments.device, arguments.dtype, compile)
    dtype = "" if completer.dtype == "float32" else f", in {completer.dtype}"
    print(f"model: {path}{dtype}", file=sys.stderr)
    return completer
