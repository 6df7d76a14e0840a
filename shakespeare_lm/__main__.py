"""Runs `python -m shakespeare_lm COMMAND`."""

import sys

from shakespeare_lm.commands.start import main

if __name__ == "__main__":
    sys.exit(main())
