"""Say how likely a model finds a text: python scripts/score.py FILE."""

import sys

from shakespeare_lm.commands.start import run_command

if __name__ == "__main__":
    sys.exit(run_command("score", sys.argv[1:]))
