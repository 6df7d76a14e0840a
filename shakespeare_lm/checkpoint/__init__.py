"""a `.ckpt` file from anybody -> hyperparameters and weights: checking the archive, reading its
content without running any of it, and finding it among the runs.
"""
