"""batches -> a checkpoint: loss, metrics, optimizer, the LightningModule where they meet, and the
callbacks that save, stop and report. Lightning is used here, in the datamodule and in the `fit`
command only.
"""
