"""text -> batches: finding and reading a corpus, splitting it, turning characters into ids, and
cutting them into padded windows. Only `datamodule` knows about Lightning.
"""
