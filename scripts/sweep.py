"""Search ranges of options: python scripts/sweep.py --config plain --sweep OPTION=RANGE."""

import sys

from shakespeare_lm.commands.start import run_command

if __name__ == "__main__":
    sys.exit(run_command("sweep", sys.argv[1:]))
