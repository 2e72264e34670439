"""Stages as ONNX files.

- `spectrum`: log-mel spectra in fewer operations;
- `attention`: packed attention projections;
- `forms`: rewrites for every runtime;
- `ort`: rewrites for ONNX Runtime;
- `file`: the bytes of a graph, checked;
- `shapes`: shapes of ONNX Runtime's own operators;
- `costs`: the operations of a file, from which costs are counted;
- `target`: the target `onnx`.
"""
