"""Write a model in a form that other programs load: python scripts/export.py --to onnx ..."""

import sys

from shakespeare_lm.commands.start import run_command

if __name__ == "__main__":
    sys.exit(run_command("export", sys.argv[1:]))
