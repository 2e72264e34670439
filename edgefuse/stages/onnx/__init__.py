"""The stages of an ONNX file, found by the same rule as those of a torch module.

- `products`: multiply-accumulates of a node;
- `file`: the file read, with its external data, and brought to one set of operators;
- `module`: a graph as a torch module that ONNX Runtime runs;
- `ports`: which input of the file takes which value, in the types and sizes of the spec;
- `traced`: a graph in the form in which stages are found;
- `extraction`: a part as a graph of its own;
- `found`: the steps in order.
"""

from edgefuse.stages.onnx.found import find
from edgefuse.stages.onnx.module import OnnxModule

__all__ = ["OnnxModule", "find"]
