"""The reference models in full precision on a GPU: what `benchmarks/gpu.py` runs there, in processes of its own.

Nothing here needs more than torch and numpy, and no package is imported whole whose `__init__` needs more.

- `models`: the reference models as plain torch modules, with weights and inputs that are in the repository;
- `card`: the GPU, or the CPU in its place: what it is, and one model on it at one batch;
- `variants`: precisions and ways to run a model on it;
- `measuring`: the batch that fills it, interleaved timings, answers against the CPU's;
- `onnx_file`: a model as one ONNX file;
- `engines`: that file in TensorRT and in ONNX Runtime's CUDA provider;
- `parts`: what each process does;
- `page`: the record as tables.
"""
