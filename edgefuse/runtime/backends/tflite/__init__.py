"""LiteRT, or its predecessor.

- `backend`: the backend `tflite`;
- `placement`: where operators run.
"""
