"""NVIDIA GPUs, by the best runtime that is there.

- `cuda`: calls of the CUDA runtime;
- `engines`: engines kept on this device;
- `session`: how an engine runs;
- `edition`: which TensorRT is here;
- `build`: from a graph to an engine;
- `api`: graphs in TensorRT;
- `providers`: graphs in ONNX Runtime;
- `backend`: the backend `tensorrt`.
"""
