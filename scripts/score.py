"""Say how likely a model finds a text: python scripts/score.py FILE."""

import sys

from shakespeare_lm.scoring_cli import main

if __name__ == "__main__":
    sys.exit(main())
