"""Rewrites around slow paths of ONNX Runtime.

- `pooling`: means and weighted sums;
- `passes`: all rewrites in order.
"""
