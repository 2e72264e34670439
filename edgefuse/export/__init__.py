"""From stages to files of a target.

- `cost_graph`: a file as costs need it;
- `target`: the protocol of a target;
- `torch`: traced stages in operators that every target has;
- `tracing`: `torch.export` for all targets, and what exporters refuse as one sentence;
- `sizes`: what stays open in a traced stage;
- `answers`: a file held to torch when it is made;
- `differing`: the operator at which answers begin to differ;
- `onnx`: ONNX files;
- `tflite`: TFLite files;
- `tensorrt`: ONNX files with a plan to build TensorRT engines;
- `openvino`: ONNX files for OpenVINO;
- `costs`: what a file costs, counted.
"""
