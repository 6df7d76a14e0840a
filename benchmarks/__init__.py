"""What scripts/bench.py measures, one file per noun."""
