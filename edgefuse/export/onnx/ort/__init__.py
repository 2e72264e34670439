"""Rewrites around slow paths of ONNX Runtime."""
