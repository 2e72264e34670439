"""ONNX Runtime on the CPU.

- `api`: ONNX Runtime's package, imported here alone;
- `backend`: the backend `onnx`;
- `placement`: where operators run.
"""
