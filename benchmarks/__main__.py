"""Measure speed and memory: python scripts/bench.py {feed,train,scaling,complete} [options].

Every command prints a readable table, and as its last line the same figures as JSON.
"""

import argparse
import sys

from benchmarks import complete, feed, scaling, train
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.training.summary import prepare_console

COMMANDS = {"feed": feed, "train": train, "scaling": scaling, "complete": complete}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").partition("\n\n")[0]
        command.add_arguments(
            commands.add_parser(name, help=summary, description=command.__doc__, allow_abbrev=False)
        )
    return parser


def main(arguments: list[str] | None = None) -> int:
    # What a command does not know itself is for the command line of fit.py, if it takes any.
    known, options = build_parser().parse_known_args(arguments)
    try:
        COMMANDS[known.command].run(known, options)
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    prepare_console()
    sys.exit(main())
