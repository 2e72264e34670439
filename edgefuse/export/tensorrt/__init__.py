"""Stages as graphs and build plans for TensorRT.

- `operators`: operators that TensorRT takes;
- `sparsity`: whether weights are 2:4 sparse;
- `target`: the target `tensorrt`.
"""
