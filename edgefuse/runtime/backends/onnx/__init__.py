"""ONNX Runtime on the CPU.

- `api`: ONNX Runtime's package, imported here alone;
- `session`: how a file is opened and run;
- `placement`: where its operators run;
- `backend`: the backend `onnx`.
"""
