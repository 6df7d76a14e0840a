"""Speed, measured: `python -m benchmarks {train,complete,growth}`. docs/PERFORMANCE.md shows the
results.
"""
