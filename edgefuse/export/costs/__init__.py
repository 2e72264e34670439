"""What a lowered stage costs, counted from its file.

- `graph`: a file as tensors and operations;
- `onnx_shapes`: shapes of ONNX Runtime's own operators;
- `onnx`: reads ONNX files;
- `tflite`: reads TFLite files;
- `counting`: multiply-accumulates, bytes moved, memory.
"""
