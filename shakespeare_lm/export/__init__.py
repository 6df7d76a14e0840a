"""a checkpoint -> forms that other programs load: Hugging Face's, and ONNX."""
