"""How stage files run, one package per runtime; found by name through entry points.

- `backend`: the protocol of a backend, and what all share;
- `choice`: which backend opens which file of a bundle;
- `denormals`: denormal numbers flushed to zero;
- `onnx`: ONNX Runtime;
- `tflite`: LiteRT;
- `tensorrt`: NVIDIA GPUs;
- `openvino`: OpenVINO;
- `null`: the backend `null`.
"""
