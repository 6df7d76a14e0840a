"""Measure speed: python -m benchmarks {train,complete,serve,growth} [options].

Every command prints a table, and the same figures as JSON in its last line.
"""

import argparse
import sys

from benchmarks import complete, growth, serve, train
from shakespeare_lm.commands.console import prepare_console
from shakespeare_lm.errors import UserError, one_line

COMMANDS = {"train": train, "complete": complete, "serve": serve, "growth": growth}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").partition("\n\n")[0]
        command.add_arguments(
            commands.add_parser(name, help=summary, description=command.__doc__, allow_abbrev=False)
        )
    return parser


def main(arguments: list[str] | None = None) -> int:
    # Unknown options are passed on to the command line of fit.py.
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
