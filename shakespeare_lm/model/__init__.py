"""ids -> logits: the transformer, to be read at one sitting. What is here is what runs."""
