"""Continue a prompt with a trained model: python scripts/complete.py --prompt "ROMEO:"."""

import sys

from shakespeare_lm.completion_cli import main

if __name__ == "__main__":
    sys.exit(main())
