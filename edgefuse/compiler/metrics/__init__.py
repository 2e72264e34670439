"""How good answers are: the metrics of each kind of output, and the user's own.

A new metric is a function and a line in `METRICS` of its kind of output; a share of 0 to 1 is named in
`edgefuse.measure.metrics`, too.

- `metric`: what a metric is: a row per item, one figure of all rows, and a drop with its interval;
- `ranking`: areas under curves, for the first two kinds;
- `classes`: of logits over classes;
- `labels`: of several labels at once;
- `values`: of numbers and arrays;
- `embeddings`: of retrieval;
- `tokens`: of tokens and text;
- `fidelity`: against the answers of the reference, where nothing is labelled;
- `own`: the user's `module:callable`;
- `named`: a metric by its name, for an output.
"""
