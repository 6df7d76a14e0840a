"""A checkpoint from anybody -> hyperparameters and weights: checked, read, found among the runs."""
