"""Rewrites around slow paths of ONNX Runtime.

- `pooling`: means and weighted sums;
- `attention`: packed attention projections;
- `passes`: all rewrites in order.
"""
