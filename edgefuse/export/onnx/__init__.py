"""Stages as ONNX files (`target`); rewrites for ONNX Runtime alone stand in `ort`."""
