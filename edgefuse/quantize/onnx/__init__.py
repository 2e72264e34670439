"""Schemes for ONNX graphs; what only ONNX Runtime wants stands in `ort`."""
