"""Continue a prompt with a trained model: python scripts/complete.py --prompt "ROMEO:"."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from shakespeare_lm.checkpoint import newest_checkpoint
from shakespeare_lm.completion import Completer
from shakespeare_lm.errors import UserError, one_line


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Continue a prompt with a trained model. The text alone goes to stdout."
    )
    add = parser.add_argument
    add("--ckpt", metavar="PATH", help="checkpoint (default: the newest run's best)")
    add("--prompt", default="", help="the text to continue (default: a new line)")
    add("--max_new_tokens", type=int, default=500, metavar="N", help="characters to make (500)")
    add("--greedy", action="store_true", help="always take the most likely character")
    add(
        "--temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="below 1 bolder, above wilder (0.8)",
    )
    add("--top_k", type=int, metavar="K", help="choose among the K most likely characters only")
    add(
        "--top_p",
        type=float,
        metavar="P",
        help="choose among the likeliest that have probability P",
    )
    add("--seed", type=int, help="makes the result repeatable")
    add("--num_samples", type=int, default=1, metavar="N", help="how many completions (1)")
    add(
        "--unknown",
        choices=("error", "skip"),
        default="error",
        help="characters never seen in training",
    )
    add("--output", metavar="FILE", help="write to FILE instead of stdout")
    return parser.parse_args(argv)


@contextmanager
def opened(path: str | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        yield file


def complete(arguments: argparse.Namespace) -> None:
    if arguments.num_samples < 1:
        raise UserError(f"num_samples is {arguments.num_samples}: accepted is 1 or more")
    path = arguments.ckpt or newest_checkpoint("best")
    print(f"completing with {path}", file=sys.stderr)
    completer = Completer.from_checkpoint(path)
    names = ("max_new_tokens", "greedy", "temperature", "top_k", "top_p", "unknown")
    options = {name: getattr(arguments, name) for name in names}
    # All options are checked before the output file is opened, so a mistake leaves no empty file.
    seeds = [
        None if arguments.seed is None else arguments.seed + i for i in range(arguments.num_samples)
    ]
    streams = [completer.stream(arguments.prompt, seed=seed, **options) for seed in seeds]
    with opened(arguments.output) as output:
        for number, stream in enumerate(streams):
            output.write("\n---\n" if number else "")
            output.write(arguments.prompt)
            for character in stream:
                output.write(character)
                output.flush()
            output.write("\n")


def main() -> int:
    # Any character of any text can be printed, whatever the terminal's encoding is said to be.
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    try:
        complete(parse_arguments())
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader has gone, as `head` does: nothing more is to be written, nor said.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
