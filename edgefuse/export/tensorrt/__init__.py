"""Stages as graphs and build plans for TensorRT.

- `operators`: operators that TensorRT takes;
- `bounds`: clips with one bound;
- `sparsity`: whether weights are 2:4 sparse;
- `builder_process`: what runs beside the compiler, TensorRT's parser and builder;
- `builder`: whether these take a graph;
- `target`: the target `tensorrt`.
"""
