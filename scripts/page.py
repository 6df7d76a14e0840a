"""Make one HTML page that runs a model: python scripts/page.py --output model.html."""

import sys

from shakespeare_lm.commands.start import run_command

if __name__ == "__main__":
    sys.exit(run_command("page", sys.argv[1:]))
