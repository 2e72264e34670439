"""Schemes for TensorRT's graphs: all precision is explicit.

- `plan`: where values are quantized;
- `static`: the scheme `static_wi8_ai8`;
- `quantizer`: the quantizer.
"""
