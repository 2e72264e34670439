"""Stages as ONNX files.

- `spectrum`: log-mel spectra in fewer operations;
- `ort`: rewrites for ONNX Runtime;
- `file`: the bytes of a graph, checked;
- `shapes`: shapes of ONNX Runtime's own operators;
- `costs`: the operations of a file, from which costs are counted;
- `target`: the target `onnx`.
"""
