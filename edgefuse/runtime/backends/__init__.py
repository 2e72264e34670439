"""How stage files run, one module per runtime; found by name through entry points.

- `backend`: the protocol of a backend, and what all share;
- `denormals`: denormal numbers flushed to zero;
- `onnx_api`: ONNX Runtime's package, imported here alone;
- `onnx`: the backend `onnx`;
- `tflite`: the backend `tflite`;
- `tensorrt`: the backend `tensorrt`;
- `tensorrt_providers`: its graphs in ONNX Runtime;
- `tensorrt_api`: its graphs in TensorRT;
- `tensorrt_session`: how an engine runs;
- `cuda`: calls of the CUDA runtime;
- `null`: the backend `null`.
"""
