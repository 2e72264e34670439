"""Schemes for TensorRT's graphs: all precision is explicit."""
