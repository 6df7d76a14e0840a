"""a checkpoint and a prompt -> text: incremental decoding, sampling, stop strings, and scoring.
Needs torch but not Lightning, so it starts fast.
"""
