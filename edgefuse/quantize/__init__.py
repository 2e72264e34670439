"""Schemes of quantization, and the calibration that static ones need.

- `quantizer`: the protocol of a quantizer;
- `schemes`: the grammar of schemes;
- `torch`: what is done to a stage before it is lowered;
- `calibration`: statistics and ranges of activations;
- `onnx`: ONNX files;
- `tflite`: TFLite files;
- `tensorrt`: files for TensorRT;
- `openvino`: files for OpenVINO;
- `sensitivity`: layers that are better left in float.
"""
