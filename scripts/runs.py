"""List runs: python scripts/runs.py [FOLDER] [--json]."""

import sys

from shakespeare_lm.commands.start import run_command

if __name__ == "__main__":
    sys.exit(run_command("runs", sys.argv[1:]))
