"""Complete a prompt with a trained model: python scripts/complete.py --prompt "ROMEO:"."""

import sys

from shakespeare_lm.commands.start import run_command

if __name__ == "__main__":
    sys.exit(run_command("complete", sys.argv[1:]))
