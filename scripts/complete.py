"""Complete a prompt with a trained model: python scripts/complete.py --prompt "ROMEO:"."""

import sys

if __name__ == "__main__":
    try:
        from shakespeare_lm.commands.complete import main
    except KeyboardInterrupt:  # importing torch takes a while
        sys.exit(130)
    sys.exit(main())
