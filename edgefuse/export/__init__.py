"""From stages to files of a target.

- `cost_graph`: a file as costs need it;
- `target`: the protocol of a target;
- `torch`: traced stages in operators that every target has;
- `tracing`: `torch.export` for all targets, and what exporters refuse as one sentence;
- `sizes`: what stays open in a traced stage;
- `answers`: a file held to torch when it is made;
- `fourier`: discrete Fourier transforms in two factors, as weights;
- `differing`: the operator at which answers begin to differ;
- `onnx`: ONNX files;
- `tflite`: TFLite files;
- `tensorrt`: ONNX files with a plan to build TensorRT engines;
- `openvino`: ONNX files for OpenVINO;
- `costs`: what a file costs, counted.

The package can be called: `edgefuse.export(model, spec, target, …)` is a verb of the library, and makes a bundle. It
stands in `edgefuse.compiler.exporting`, above this package, and has the name that the package has as an attribute.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return import_module("edgefuse.compiler.exporting").export(*arguments, **keywords)


sys.modules[__name__].__class__ = _Verb
