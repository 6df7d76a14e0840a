"""Train a model: python scripts/fit.py [--config configs/NAME.yaml] [options]."""

import sys

from shakespeare_lm.commands.start import run_command

if __name__ == "__main__":
    sys.exit(run_command("fit", sys.argv[1:]))
