"""ids -> logits: the transformer, its options, the bigram baseline, and the key-value cache that
makes generating text fast. Plain PyTorch: nothing here knows about losses, files or Lightning.
"""
