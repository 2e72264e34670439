"""Traced stages in operators that every target has: each form computes what torch computes, to rounding.

- `inlining`: other operators in place of a node;
- `pools`: adaptive pools whose regions differ in size;
- `order`: sorted values, quantiles, medians;
- `placing`: resized, padded and transposed convolved images;
- `tables`: bags of embeddings, projected LSTMs;
- `masks`: attention with nothing to attend to, types that meet, constant matrices;
- `spectra`: Fourier transforms of real samples as convolutions;
- `complex_numbers`: complex values as pairs of real ones;
- `outputs`: outputs that are inputs;
- `forms`: all of them applied to a traced stage.
"""
