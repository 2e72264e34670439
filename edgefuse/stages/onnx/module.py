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

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.spec import DType
from edgefuse.errors import BackendError, InputError, cited
from edgefuse.runtime.backends.backend import Session, SessionOptions
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from edgefuse.stages.stage import ONNX

_DTYPES: dict[int, DType] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.UINT8: "uint8",
}
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
        origin: what the module was made of, as targets name it.
        runtime: what runs it, for reports.
        rows_looked_up: rows of the tables that ids are looked up in.
    """

    origin = ONNX

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
        self.inputs = tuple(map(_binding, proto.graph.input))
        self.outputs = tuple(map(_binding, proto.graph.output))
        self.graph = bytes(proto.SerializeToString(deterministic=True))
        self.rows_looked_up = rows_looked_up
        self.runtime = " ".join(next(iter(OnnxBackend().versions().items())))
        self.eval()

    def extra_repr(self) -> str:
        """Spell what runs it: a part of cache keys."""
        return self.runtime

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
        model = ir.from_proto(self.proto())
        graph = model.graph
        for value, name in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
            value.name = name
        return model

    @torch.compiler.disable
    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Take tensors in the order of the inputs, or by their names; batch first.

        Raises:
            RuntimeError: if ONNX Runtime cannot run the graph on them.
        """
        given = dict(zip((port.port for port in self.inputs), tensors, strict=False)) | named
        arrays = {name: np.ascontiguousarray(tensor.detach().cpu().numpy()) for name, tensor in given.items()}
        session, count = _session(self), len(next(iter(arrays.values())))
        try:
            samples = [
                session.run({name: array[index : index + 1] for name, array in arrays.items()})
                for index in range(count)
            ]
        except (BackendError, InputError) as error:
            raise RuntimeError(cited(error)) from error
        results = tuple(
            torch.from_numpy(np.concatenate([sample[port.port] for sample in samples])) for port in self.outputs
        )
        return results if len(results) > 1 else results[0]


def runtime_of(module: nn.Module) -> str:
    """Return what runs a module in place of torch; empty if torch does."""
    return next((part.runtime for part in module.modules() if isinstance(part, OnnxModule)), "")


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= _FEWEST_WEIGHTS)


def _binding(value: onnx.ValueInfoProto) -> Binding:
    """Return how a tensor is called; its sizes are left to ONNX Runtime, so that nothing is padded."""
    kind = value.type.tensor_type
    dtype = _DTYPES[kind.elem_type]
    return Binding(port=value.name, tensor=value.name, dtype=dtype, shape=(-1,) * len(kind.shape.dim))


# No attribute of the module, which is copied, hashed and sent to other processes.
_sessions: weakref.WeakKeyDictionary[nn.Module, tuple[int, Session]] = weakref.WeakKeyDictionary()


def _session(module: OnnxModule) -> Session:
    """Return the opened graph: opened once for as many threads as torch has."""
    threads = torch.get_num_threads()
    kept: Any = _sessions.get(module)
    if kept is None or kept[0] != threads:
        data = module.proto().SerializeToString()
        kept = threads, OnnxBackend().open(data, module.inputs, module.outputs, SessionOptions(threads=threads))
        _sessions[module] = kept
    session: Session = kept[1]
    return session
