"""Tensors -> tensors: parts of the model in a form that some hardware computes faster."""
