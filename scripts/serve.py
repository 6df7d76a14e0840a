"""Serve a model over HTTP: python scripts/serve.py."""

import sys

from shakespeare_lm.commands.start import run_command

if __name__ == "__main__":
    sys.exit(run_command("serve", sys.argv[1:]))
