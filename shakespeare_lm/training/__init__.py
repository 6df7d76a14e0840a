"""batches -> a checkpoint: optimizer, LightningModule, and callbacks that save, stop and report."""
