"""Train a model: python scripts/fit.py [--config configs/NAME.yaml] [options]."""

import sys
from pathlib import Path

from shakespeare_lm.commands.fit import main

if __name__ == "__main__":
    sys.exit(main(default_config=Path(__file__).parents[1] / "configs" / "default.yaml"))
