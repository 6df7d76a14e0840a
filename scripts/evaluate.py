"""Say how good models are, and against what: python scripts/evaluate.py."""

import sys

from shakespeare_lm.commands.start import run_command

if __name__ == "__main__":
    sys.exit(run_command("evaluate", sys.argv[1:]))
