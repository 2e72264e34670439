"""Stages as TFLite files.

- `rewrites`: operators that LiteRT runs fast;
- `recurrent`: recurrent layers, traced as one operator each;
- `target`: the target `tflite`;
- `recurrent_loops`: loops in place of those operators.
"""
