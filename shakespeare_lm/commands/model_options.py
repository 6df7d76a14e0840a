"""The options that choose a model, which the commands that use one share.

Enters: options of the command line. Leaves: a `Completer`.
"""

import argparse
import sys
from typing import get_args

from shakespeare_lm.checkpoint.runs import find_checkpoint
from shakespeare_lm.commands.text_files import check_output
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.decoder import Window
from shakespeare_lm.data.tokenizer import Unknown
from shakespeare_lm.hardware import DEVICES, DTYPES


def add_model_options(parser: argparse._ActionsContainer, dtype: str) -> None:
    """Add the options that choose a checkpoint, the device it runs on, and its number format, which
    is `dtype` by default.
    """
    add = parser.add_argument
    add(
        "--ckpt",
        metavar="PATH",
        help="a checkpoint, or the folder of a run (default: the newest run's best)",
    )
    add(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="auto takes a GPU if there is one (cpu)",
    )
    add(
        "--dtype",
        choices=DTYPES,
        default=dtype,
        help="of weights and cache (int8: of weights, on a CPU); auto takes the one that completes "
        f"fastest ({dtype})",
    )
    add(
        "--window",
        choices=get_args(Window),
        default="stride",
        help="a full context window restarts with its newer half (stride, the default), or moves "
        "on by one character and is read again each time (exact)",
    )
    add(
        "--unknown",
        choices=get_args(Unknown),
        default="error",
        help="characters never seen in training: refuse, drop, or replace with their plain form or "
        "a space (default: error)",
    )
    add("--output", metavar="FILE", help="write to FILE instead of stdout (-)")


def load_completer(
    arguments: argparse.Namespace, *inputs: str | None, compile: bool = False
) -> Completer:
    """Load the given checkpoint, or the best of the newest run, and print its path to stderr, with
    its number format unless that is float32.

    Raises:
        UserError: if the checkpoint cannot be read, or the output is a file that must not be
            overwritten: a checkpoint, or one of the other `inputs` of the command.
    """
    path = find_checkpoint(arguments.ckpt)
    check_output(arguments.output, path, *inputs)
    completer = Completer.from_checkpoint(path, arguments.device, arguments.dtype, compile)
    dtype = "" if completer.dtype == "float32" else f", in {completer.dtype}"
    print(f"model: {path}{dtype}", file=sys.stderr)
    return completer
