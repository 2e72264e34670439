"""Traced stages in operators that every target has: each form computes what torch computes, to rounding.

- `inlining`: other operators in place of a node;
- `pools`: adaptive pools whose regions differ in size;
- `order`: sorted values, quantiles, medians;
- `placing`: images at nearest neighbours, mirrored ends;
- `resizing`: images resized by matrix products;
- `transposed`: transposed convolutions;
- `scattering`: sums at the places of an index, rows of ones and zeros;
- `tables`: bags of embeddings, projected LSTMs;
- `arithmetic`: limits of two kinds of numbers, products of two vectors by a tensor;
- `masks`: attention with nothing to attend to, types that meet, constant matrices;
- `spectra`: short-time Fourier transforms, and back, as convolutions;
- `transforms`: Fourier transforms along axes as matrix products;
- `complex_numbers`: complex values as pairs of real ones;
- `outputs`: outputs that are inputs;
- `forms`: all of them applied to a traced stage.
"""
