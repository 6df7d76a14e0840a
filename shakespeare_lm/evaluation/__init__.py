"""a checkpoint and a corpus -> how good the model is, and against what: exact losses, next to
those of models that only count, of compressors, and of others' programs.
"""
