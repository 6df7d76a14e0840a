"""a checkpoint and a corpus -> how good the model is, and against what: exact losses, beside those
of models that only count, of compressors, and of others' programs.
"""
