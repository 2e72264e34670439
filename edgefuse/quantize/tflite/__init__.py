"""Schemes for TFLite files.

- `selection`: operators that are worth int8;
- `calibration`: runs a file on calibration feeds;
- `quantizer`: the quantizer.
"""
