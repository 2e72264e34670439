"""Lower stages to TFLite (LiteRT) files with litert-torch.

The file is float32 with static shapes: a dynamic dimension is lowered at its largest size and the runtime pads. Inputs,
outputs and tensors get the names of the stage's ports and short names in place of litert-torch's, so a file tells
nothing of where it was made. litert-torch takes seconds to import, so it is imported when a stage is lowered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from ai_edge_litert.tools import flatbuffer_utils
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.spec import StageSpec, TensorSpec
from edgefuse.errors import ExportError
from edgefuse.export.answers import check_answers, padding_matters
from edgefuse.export.cost_graph import CostGraph
from edgefuse.export.sizes import decisions, takes_another_way
from edgefuse.export.target import Lowered
from edgefuse.export.tflite import by_length, costs
from edgefuse.export.tflite import recurrent as tflite_recurrent
from edgefuse.export.tflite.biases import flatten_biases
from edgefuse.export.tflite.file import pack, unpack
from edgefuse.export.tflite.recurrent_loops import expand_recurrences
from edgefuse.export.tflite.rewrites import rewrite
from edgefuse.export.tflite.suspects import meant_by
from edgefuse.export.torch.forms import ALL
from edgefuse.export.tracing import first_words, named_operators, node_of, quiet, trace
from edgefuse.registry import create
from edgefuse.stages.branches import feeds_at_branches
from edgefuse.stages.padding import depends_on_padding, right_when_shorter
from edgefuse.stages.stage import TORCH, TorchStage

# Checks that tracing leaves behind and litert-torch removes, and loops that are lowered here.
_DROPPED = {
    *(torch.ops.aten._assert_tensor_metadata.default, torch.ops.aten._assert_scalar.default),
    tflite_recurrent.OPERATOR,
}
_DTYPES = {"float32": torch.float32, "uint8": torch.uint8, "int32": torch.int32}


class TfliteTarget:
    """The target `tflite`: float32 LiteRT files with one signature and static shapes."""

    name = "tflite"
    title = "TFLite"
    backend = "tflite"
    suffix = ".tflite"
    accelerator = "cpu"
    pads = True
    reads: tuple[str, ...] = (TORCH,)

    def load_tools(self) -> None:
        """Load the converter."""
        with quiet():
            import litert_torch  # noqa: F401
            from litert_torch.backend import lowerings  # noqa: F401

    def lower(self, stage: TorchStage) -> Lowered:
        """Lower a stage in float32; the same stage gives the same bytes.

        Raises:
            ExportError: if the stage depends on padding or cannot be traced, litert-torch lacks an operator or refuses
                it, or LiteRT cannot run the file or answers otherwise than torch.
        """
        if dependence := depends_on_padding(stage):
            ended = by_length.ended_by_length(stage)
            if ended is None:
                told = _wrong_at_some_sizes(stage) if right_when_shorter(stage) else None
                raise told or padding_matters(dependence, self.title)
            stage = ended
        if wrong := _wrong_at_some_sizes(stage):
            raise wrong
        return self._lower(stage)

    def mended(self, stage: TorchStage) -> TorchStage:
        """Return a stage whose recurrent layers end by its length, if it depends on padding and then does not."""
        return by_length.mended(stage)

    def _lower(self, stage: TorchStage) -> Lowered:
        program = _trace(stage)
        refused = f"litert-torch cannot lower the stage '{stage.spec.name}'"
        fix = "replace what is named, or leave the target 'tflite' out of the recipe"
        try:
            data = _converted(program, stage)
        except ExportError:
            raise
        except Exception as error:  # litert-torch and MLIR raise whatever they like
            # Looked for only now: it takes a quarter of the time of a conversion, and `program` was rewritten in place.
            traced = _trace(stage)
            at = node_of(error) or meant_by(str(error), traced)
            said = _unsupported(traced, stage) or (*named_operators(at, stage), first_words(error))
            raise ExportError(refused, got="; ".join(said), fix=fix) from error
        ports = stage.spec.inputs, stage.spec.outputs
        inputs, outputs = (tuple(_binding(port.tensor) for port in side) for side in ports)
        named = name_interface(data, [b.tensor for b in inputs], [b.tensor for b in outputs])
        lowered = Lowered(data=named, inputs=inputs, outputs=outputs, opset="tfl3")
        check_answers(stage, lowered, create("backends", self.backend), self.title, lambda said: _meant(said, stage))
        return lowered

    def operations(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> CostGraph:
        """Return the operations of a file; see `Target.operations`."""
        return costs.read(data, shapes)

    def versions(self) -> dict[str, str]:
        """Return the versions of torch, litert-torch and the converter behind it."""
        return {name: version(name) for name in ("torch", "litert-torch", "litert-converter", "ai-edge-litert")}


def _binding(tensor: TensorSpec) -> Binding:
    return Binding(port=tensor.name, tensor=tensor.name, dtype=tensor.dtype, shape=tensor.max_shape)


def _example_inputs(spec: StageSpec) -> tuple[Tensor, ...]:
    """Return zeros of the largest shapes; tracing looks at their types and shapes alone."""
    tensors = [port.tensor for port in spec.inputs]
    return tuple(torch.zeros(tensor.max_shape, dtype=_DTYPES[tensor.dtype]) for tensor in tensors)


def _wrong_at_some_sizes(stage: TorchStage) -> ExportError | None:
    """Return why a stage is wrong where it decides otherwise than at its largest size; None if it is right there."""
    for line, feeds in feeds_at_branches(stage, decisions(stage)):
        if dependence := depends_on_padding(stage, [feeds]):
            if line:
                return takes_another_way(stage, line, str(dependence))
            return padding_matters(dependence, TfliteTarget.title)
    return None


def _trace(stage: TorchStage) -> ExportedProgram:
    """Trace a stage at its largest shapes; errors are those of `trace`."""
    layers = tflite_recurrent.RecurrentLayers(stage.spec.name)
    return trace(stage, _example_inputs(stage.spec), around=layers, forms=ALL)


def _converted(program: ExportedProgram, stage: TorchStage) -> bytes:
    with quiet():
        import litert_torch

        if tflite_recurrent.is_recurrent(program):
            tflite_recurrent.register_lowering()
        converted = litert_torch.convert(rewrite(program), _example_inputs(stage.spec))
        return bytes(converted.model_content())


def _meant(said: str, stage: TorchStage) -> tuple[str, ...]:
    """Name the operators of a stage that the runtime's words mean."""
    return named_operators(meant_by(said, _trace(stage)), stage)


def _unsupported(program: ExportedProgram, stage: TorchStage) -> tuple[str, ...]:
    with quiet():
        from litert_torch import fx_infra
        from litert_torch.backend import lowerings

        decomposed = program.run_decompositions(fx_infra.decomp.pre_lower_decomp())
        missing = [
            node
            for node in decomposed.graph.nodes
            if isinstance(node.target, OpOverload)
            and node.target not in _DROPPED
            and lowerings.lookup(node.target) is None
        ]
    return named_operators(missing, stage)


def name_interface(data: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Give a file of litert-torch the names of its ports (by position), and its tensors short names.

    An inner tensor is called after its operator (`conv_2d_4`), a constant by its number (`constant_7`): such names are
    the same for the same graph, and save a tenth of an int8 file.

    Args:
        data: the file.
        inputs: names of the ports, in order.
        outputs: names of the ports, in order.

    Raises:
        ExportError: if the file's one signature does not have inputs `args_<position>` and outputs `output_<position>`.
    """
    model = unpack(data)
    expand_recurrences(model)
    flatten_biases(model)
    (signature,) = model.signatureDefs
    graph = model.subgraphs[0]
    _rename(signature.inputs, "args_", inputs)
    _rename(signature.outputs, "output_", outputs)
    names: dict[int, str] = {}
    taken: set[str] = set()
    for index, name in (*_port_names(signature), *_operator_names(model)):
        if index not in names:
            while name in taken:
                name += "_"
            names[index] = name
            taken.add(name)
    for index, tensor in enumerate(graph.tensors):
        tensor.name = names[index].encode()
    graph.name = b"main"
    return pack(model)


def _rename(ports: Sequence[Any], prefix: str, names: Sequence[str]) -> None:
    found = sorted(port.name.decode() for port in ports)
    expected = sorted(f"{prefix}{position}" for position in range(len(names)))
    if found != expected:
        raise ExportError(
            "the lowered file has another interface than its stage",
            got=", ".join(found) or "nothing",
            expected=", ".join(expected),
            fix="let every input of the stage reach its computation, and return one tensor per output",
        )
    for port in ports:
        port.name = names[int(port.name.decode().removeprefix(prefix))].encode()


def _port_names(signature: Any) -> Iterator[tuple[int, str]]:
    for port in (*signature.inputs, *signature.outputs):
        yield port.tensorIndex, port.name.decode()


def _operator_names(model: Any) -> Iterator[tuple[int, str]]:
    """Yield a name for every tensor of the main graph: after the operator that makes it, or its number."""
    graph = model.subgraphs[0]
    made = set()
    for position, operator in enumerate(graph.operators):
        kind = str(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)).lower()
        for nth, index in enumerate(operator.outputs):
            made.add(index)
            yield index, f"{kind}_{position}" + (f"_{nth}" if nth else "")
    for index in range(len(graph.tensors)):
        if index not in made:
            yield index, f"constant_{index}"
