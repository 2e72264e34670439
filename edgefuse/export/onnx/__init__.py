"""Stages as ONNX files.

- `spectrum`: log-mel spectra in fewer operations;
- `ort`: rewrites for ONNX Runtime;
- `file`: the bytes of a graph, checked;
- `target`: the target `onnx`.
"""
