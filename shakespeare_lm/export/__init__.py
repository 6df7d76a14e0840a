"""a checkpoint -> forms that other programs load: Hugging Face's, ONNX and GGUF."""
