"""Stages as TFLite files.

- `rewrites`: operators that LiteRT runs fast;
- `spectrum`: Fourier transforms in two factors;
- `editing`: graphs of `torch.export`, read and changed;
- `recurrent`: recurrent layers, traced as one operator each;
- `by_length`: recurrent layers that end at the last valid step;
- `recurrent_loops`: loops in place of those operators;
- `biases`: biases in the shape that every kernel takes;
- `file`: the bytes of a file;
- `costs`: the operations of a file, from which costs are counted;
- `suspects`: the operators of a stage that words of the converter or of the runtime mean;
- `target`: the target `tflite`.
"""
