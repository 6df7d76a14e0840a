"""Compare variants over the same seeds: python scripts/compare.py --config plain --variant ..."""

import sys

from shakespeare_lm.commands.start import run_command

if __name__ == "__main__":
    sys.exit(run_command("compare", sys.argv[1:]))
