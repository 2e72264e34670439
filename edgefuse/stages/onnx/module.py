"""A graph of an ONNX file as a torch module, run by ONNX Runtime: what stands for a stage wherever torch would."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgefuse.errors import cited
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.denormals import Flushed
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.runtime.backends.onnx.session import create, session_options
from edgefuse.runtime.processor import available_processors

_FEWEST_WEIGHTS = 64
"""Numbers in a float tensor that counts as weights; what is less stays in the graph."""


class OnnxModule(nn.Module):
    """Run a graph in ONNX Runtime, one sample at a time, on as many threads as torch has.

    Its weights are parameters: they count, are hashed, and go to other processes as those of any module. They learn
    nothing.

    Args:
        model: the graph; its inputs are float32, int32 or uint8 and its outputs float32, all of one sample.
        rows_looked_up: rows of the tables that ids are looked up in.

    Attributes:
        edgefuse_runtime: what runs it in place of torch, with its version.
        rows_looked_up: rows of the tables that ids are looked up in.
    """

    def __init__(self, model: ir.Model, rows_looked_up: tuple[int, ...] = ()) -> None:
        super().__init__()
        proto = ir.to_proto(model)
        weights = [one for one in proto.graph.initializer if _is_weight(one)]
        self.names = tuple(one.name for one in weights)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.from_numpy(onnx.numpy_helper.to_array(one).copy()), requires_grad=False)
            for one in weights
        )
        kept = [one for one in proto.graph.initializer if not _is_weight(one)]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        self.inputs = tuple(value.name for value in proto.graph.input)
        self.outputs = tuple(value.name for value in proto.graph.output)
        self.graph = bytes(proto.SerializeToString(deterministic=True))
        self.rows_looked_up = rows_looked_up
        self.edgefuse_runtime = f"onnxruntime {onnxruntime.__version__}"
        self.eval()

    def extra_repr(self) -> str:
        """Spell what runs it: a part of cache keys."""
        return self.edgefuse_runtime

    def proto(self) -> onnx.ModelProto:
        """Return the graph with its weights."""
        proto = onnx.load_model_from_string(self.graph)
        for name, weight in zip(self.names, self.weights, strict=True):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(weight.detach().cpu().numpy(), name))
        return proto

    def model(self, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
        """Return the graph with its weights, its inputs and outputs renamed.

        Args:
            inputs: their names, in order.
            outputs: their names, in order.
        """
        model: ir.Model = ir.from_proto(self.proto())
        graph = model.graph
        for value, name in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
            value.name = name
        return model

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Take tensors in the order of the inputs, or by their names; batch first.

        Raises:
            RuntimeError: if ONNX Runtime cannot run the graph on them.
        """
        given = dict(zip(self.inputs, tensors, strict=False)) | named
        arrays = {name: np.ascontiguousarray(tensor.detach().cpu().numpy()) for name, tensor in given.items()}
        count = len(next(iter(arrays.values())))
        try:
            session = _session(self)
            with _FLUSHED:
                samples = [
                    session.run(list(self.outputs), {name: array[i : i + 1] for name, array in arrays.items()})
                    for i in range(count)
                ]
            results = tuple(torch.from_numpy(np.concatenate(values)) for values in zip(*samples, strict=True))
        except Exception as error:  # ONNX Runtime's own errors have no other base
            raise RuntimeError(cited(error)) from error
        return results if len(results) > 1 else results[0]


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= _FEWEST_WEIGHTS)


_FLUSHED = Flushed()

# No attribute of the module, which is copied, hashed and sent to other processes.
_sessions: weakref.WeakKeyDictionary[nn.Module, tuple[int, Any]] = weakref.WeakKeyDictionary()


def _session(module: OnnxModule) -> Any:
    """Return the opened graph: opened once for as many threads as torch has."""
    threads = torch.get_num_threads()
    kept = _sessions.get(module)
    if kept is None or kept[0] != threads:
        options = session_options(SessionOptions(threads=min(threads, available_processors())))
        opened = create(module.proto().SerializeToString(), ["CPUExecutionProvider"], options)
        opened._model_bytes = None  # a second copy of all weights, kept for resetting the session
        kept = _sessions[module] = threads, opened
    return kept[1]
