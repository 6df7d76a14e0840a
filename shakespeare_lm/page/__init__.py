"""a checkpoint -> one HTML page that runs the model in any browser, offline: weights packed in 8
bits, the forward pass in JavaScript, and what shows it.
"""
