"""Say how likely a model finds a text: python scripts/score.py FILE."""

import sys

if __name__ == "__main__":
    try:
        from shakespeare_lm.commands.score import main
    except KeyboardInterrupt:  # importing torch takes a while
        sys.exit(130)
    sys.exit(main())
