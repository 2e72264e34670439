"""LiteRT, or its predecessor.

- `placement`: where operators run;
- `backend`: the backend `tflite`.
"""
