"""Architectures as libraries ship them and papers describe them, each compiled with a factory, a spec and data.

- `entry`: what an entry is, its made-up data, and its fitted heads;
- `transformers_models`: models of the transformers library, and pairs of its encoders;
- `systems`: sentiment, classification, captioning and answering models, as courses teach them;
- `fusions`: ways to fuse two and three sequences;
- `sensors`: point clouds, tables, motion, video;
- `strangers`: models as people bring them;
- `catalogue`: all entries by name;
- `record`: what is told of a model, and how it is read from a report;
- `timers`: how little is timed, and when;
- `worker`: finds the stages of one entry, makes its files, times them, in a process of its own;
- `verdicts`: what the rows must show;
- `__main__`: the command line.

Weights are random; sizes are those of models for small devices (0.1 to 8 M parameters, milliseconds in float). Batch
normalizations have seen data, and heads are fitted, so that answers have margins.
"""
