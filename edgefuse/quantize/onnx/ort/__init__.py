"""What only ONNX Runtime wants."""
