"""Stages as ONNX files for OpenVINO.

- `target`: the target `openvino`.
"""
