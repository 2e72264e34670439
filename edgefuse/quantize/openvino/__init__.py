"""Schemes for OpenVINO's files.

- `post_training`: NNCF, imported here alone;
- `quantizer`: the quantizer.
"""
