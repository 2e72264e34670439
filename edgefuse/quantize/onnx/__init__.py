"""Schemes for ONNX graphs.

- `graph`: edits of a graph;
- `calibration`: runs a file on calibration feeds;
- `plan`: which nodes compute in int8;
- `weights`: weights in eight or sixteen bits;
- `static`: the scheme `static_wi8_ai8`;
- `bias`: bias correction;
- `float16`: the scheme `fp16`;
- `ort`: what only ONNX Runtime wants;
- `file`: the file of a quantized graph;
- `quantizer`: the quantizer.
"""
