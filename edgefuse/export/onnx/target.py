"""The target `onnx`: stages become ONNX files through `torch.export` and torch's own exporter.

The files are self-contained and free of metadata: the same module gives the same bytes, wherever its source lies.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, DeduplicateInitializersPass, RemoveUnusedNodesPass

# Torch has no public way to ask which operators its ONNX exporter knows. `torch.onnx.export` gathers them anew for each
# file, from the sources of 500 functions, which takes 40 % of its time.
from torch.onnx._internal.exporter import _core, _dispatching, _fx_passes, _registration

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.spec import TensorSpec
from edgefuse.errors import ExportError, cited
from edgefuse.export.answers import answers_at, check_answers
from edgefuse.export.cost_graph import CostGraph
from edgefuse.export.onnx import costs
from edgefuse.export.onnx.file import checked_bytes
from edgefuse.export.onnx.ort.passes import apply_fast_forms
from edgefuse.export.sizes import (
    branches_of,
    fixing_line,
    takes_another_way,
    trace_with_open_sizes,
    works_at_one_size,
)
from edgefuse.export.target import Lowered
from edgefuse.export.torch.forms import COMMON, Table, first_that_agrees
from edgefuse.export.tracing import first_words, named_operators, quiet
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import Backend
from edgefuse.stages.branches import Branch, feeds_at_branches
from edgefuse.stages.onnx.file import OPSET
from edgefuse.stages.onnx.found import FOLD_LIMIT
from edgefuse.stages.onnx.module import OnnxModule
from edgefuse.stages.padding import may_be_padded
from edgefuse.stages.recurrent import open_steps
from edgefuse.stages.stage import ONNX, TORCH, TorchStage

_BRANCHES = "branches"
"""Where a graph keeps the decisions on sizes of its stage: no part of the file."""

_REPLACE = "replace these operators, or move them out of the model"

TOOLS = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")


class OnnxTarget:
    """Lower stages to ONNX at batch 1; bounded and bucketed dimensions stay dynamic."""

    name = "onnx"
    title = "ONNX"
    backend = "onnx"
    suffix = ".onnx"
    accelerator = "cpu"
    pads = False
    reads: tuple[str, ...] = (TORCH, ONNX)

    def load_tools(self) -> None:
        """Load what torch's exporter translates by."""
        _registry()

    def lower(self, stage: TorchStage) -> Lowered:
        """Lower a stage in float32 and compare the file with torch.

        Raises:
            ExportError: if torch cannot trace the stage, an operator has no translation, or the file's answers differ
                from torch's.
        """
        return first_that_agrees(lambda forms: finished(translated(stage, apply_fast_forms, forms), stage))

    def operations(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> CostGraph:
        """Return the operations of a file; see `Target.operations`."""
        return costs.read(data, shapes)

    def versions(self) -> dict[str, str]:
        """Return the versions of torch, of the exporter's libraries and of the runtime that checks."""
        return {tool: version(tool) for tool in TOOLS}


def translated(stage: TorchStage, rewrite: Callable[[ir.Model], None], forms: Table = COMMON) -> ir.Model:
    """Return a stage as a graph whose nodes are named by the module that each comes from, or as in its ONNX file.

    Args:
        stage: what to translate.
        rewrite: brings the simplified graph into the forms that a runtime likes, in place.
        forms: what may stand in place of operators of torch.

    Raises:
        ExportError: if torch cannot trace the stage, or an operator has no translation.
    """
    if isinstance(stage.module, OnnxModule):
        model = stage.module.model([port.tensor.name for port in stage.spec.inputs], _outputs_of(stage))
        _describe_outputs(model, stage)
        _simplify(model, rewrite)
        _name_nodes(model, _name_in_file)
        return model
    program = trace_with_open_sizes(stage, forms)
    model = _translate(program, stage)
    _simplify(model, rewrite)
    _name_nodes(model, _name_by_module)
    model.meta[_BRANCHES] = branches_of(program)
    return model


def finished(model: ir.Model, stage: TorchStage, backend: str = "onnx") -> Lowered:
    """Return a stage's graph as a file.

    Args:
        model: the graph.
        stage: that it was made of.
        backend: in which its answers are compared with torch's.

    Raises:
        ExportError: if the file is not valid, or its answers differ from torch's.
    """
    lowered = Lowered(
        data=_serialize(model, stage),
        inputs=tuple(_binding(port.tensor, port.tensor.name) for port in stage.spec.inputs),
        outputs=tuple(
            _binding(port.tensor, name) for port, name in zip(stage.spec.outputs, _outputs_of(stage), strict=True)
        ),
        opset=f"ai.onnx {OPSET}",
    )
    _hold(stage, lowered, create("backends", backend), model.meta.get(_BRANCHES, ()))
    return lowered


def _hold(stage: TorchStage, lowered: Lowered, backend: Backend, branches: Sequence[Branch]) -> None:
    """Compare a file's answers with torch's, also at sizes where the model decides otherwise than at the largest.

    Raises:
        ExportError: if they differ; with the user's line that is why, if that can be found.
    """
    more = list(feeds_at_branches(stage, branches))
    try:
        check_answers(stage, lowered, backend, "ONNX", more=[feeds for _, feeds in more])
    except ExportError as error:
        if stage.origin == TORCH and may_be_padded(stage.spec) and (line := fixing_line(stage)):
            raise works_at_one_size(stage, line, cited(error)) from error
        for line, feeds in more:
            if line and not answers_at(stage, lowered, backend, feeds):
                raise takes_another_way(stage, line, cited(error)) from error
        raise


def _untranslatable(program: torch.export.ExportedProgram, stage: TorchStage) -> tuple[str, ...]:
    registry = _registry()
    with quiet():
        graph = _fx_passes.remove_assertion_nodes(
            _fx_passes.decompose_with_registry(program, registry).graph_module
        ).graph
        missing = [
            node
            for node in graph.nodes
            if isinstance(node.target, torch._ops.OpOverload) and _dispatching.dispatch(node, registry)[0] is None
        ]
    return named_operators(missing, stage)


def _kept_copies(program: torch.export.ExportedProgram) -> None:
    """Write out the copies of what was transposed, which are nothing in a file, before it takes another shape.

    The exporter drops those that an attention's result does not need as torch lays it out in memory; what it then puts
    in place of the attention lies otherwise, and the new shape is refused.
    """
    aten, contiguous = torch.ops.aten, {"memory_format": torch.contiguous_format}
    for node in program.graph.nodes:
        if node.target is aten.contiguous.default:
            node.target, node.kwargs = aten.clone.default, contiguous
        elif node.target in (aten.view.default, aten.reshape.default) and node.args[0].target in _TRANSPOSES:
            source = node.args[0]
            with program.graph.inserting_before(node):
                copied = program.graph.call_function(aten.clone.default, (source,), contiguous)
            copied.meta = dict(source.meta)
            node.replace_input_with(source, copied)
    program.graph_module.recompile()


def _wide_indices(program: torch.export.ExportedProgram) -> None:
    """Write out that indices are int64: ONNX has no others, and the exporter passes on what torch takes."""
    aten = torch.ops.aten
    for node in program.graph.nodes:
        if node.target not in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            continue
        for index in node.args[1]:
            if index is not None and index.meta["val"].dtype in (torch.int8, torch.int16, torch.int32):
                with program.graph.inserting_before(node):
                    wide = program.graph.call_function(aten._to_copy.default, (index,), {"dtype": torch.int64})
                wide.meta = {**index.meta, "val": index.meta["val"].long()}
                node.args = (node.args[0], [wide if one is index else one for one in node.args[1]], *node.args[2:])
    program.graph_module.recompile()


_TRANSPOSES = (torch.ops.aten.transpose.int, torch.ops.aten.permute.default)


@open_steps()
def _translate(program: torch.export.ExportedProgram, stage: TorchStage) -> ir.Model:
    _kept_copies(program)
    _wide_indices(program)
    try:
        with quiet():
            exported = _core.export(
                program,
                registry=_registry(),
                input_names=[port.tensor.name for port in stage.spec.inputs],
                output_names=_outputs_of(stage),
                optimize=False,
                verbose=False,
                opset_version=OPSET,
            )
    except Exception as error:  # torch.onnx and onnxscript raise whatever they like
        if missing := _untranslatable(program, stage):  # looked for only now: it takes a third of the time of an export
            raise ExportError(
                f"the stage '{stage.spec.name}' cannot be lowered to ONNX",
                got="operators without a translation: " + "; ".join(missing),
                fix=_REPLACE,
            ) from error
        at = [node for node in program.graph.nodes if f"node %{node.name} :" in str(error)]
        raise ExportError(
            f"torch's ONNX exporter cannot translate the stage '{stage.spec.name}'",
            got="; ".join((*named_operators(at, stage), first_words(error))),
            fix=_REPLACE,
        ) from error
    return exported.model


def _describe_outputs(model: ir.Model, stage: TorchStage) -> None:
    """Give the outputs their shapes: what comes out of ONNX Runtime's own operators has none by inference."""
    for port, value in zip(stage.spec.outputs, model.graph.outputs, strict=True):
        known = value.shape or [None] * len(port.tensor.shape)
        sizes = zip(port.tensor.shape, known, strict=True)
        value.shape = ir.Shape([said if isinstance(said, int) else seen for said, seen in sizes])


def _simplify(model: ir.Model, rewrite: Callable[[ir.Model], None]) -> None:
    """Fold constants and batch norms, remove what has no effect, keep one copy of equal weights."""
    onnxscript.optimizer.optimize_ir(model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
    rewrite(model)
    RemoveUnusedNodesPass()(model)
    DeduplicateInitializersPass(size_limit=FOLD_LIMIT)(model)


def _name_by_module(node: ir.Node) -> str:
    """Return a node's name after the torch module it comes from.

    `blocks.0.attention.qkv/MatMul` says more than `node_MatMul_34`, and it holds no counter of the process.
    """
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['']"))
    module = scopes[-2] if len(scopes) > 1 else ""
    return f"{module}/{node.op_type}" if module else node.op_type


def _name_in_file(node: ir.Node) -> str:
    """Return a node's name in the file it comes from, in letters that a scheme can name; what has none is its kind."""
    return re.sub(r"[^\w./-]+", "_", (node.name or "").strip("/"), flags=re.ASCII) or node.op_type


def _name_nodes(model: ir.Model, name_of: Callable[[ir.Node], str]) -> None:
    """Name nodes and what they compute, each once, then drop all metadata."""
    outputs = {value.name for value in model.graph.outputs}
    taken = {str(value.name).rpartition(":")[0] for value in model.graph.initializers.values()}
    seen: Counter[str] = Counter()
    for node in model.graph:
        name = name_of(node)
        node.name = name
        while node.name in taken:
            seen[name] += 1
            node.name = f"{name}_{seen[name]}"
        taken.add(node.name)
        for index, value in enumerate(node.outputs):
            if value.name not in outputs:
                value.name = f"{node.name}:{index}"
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    ClearMetadataAndDocStringPass()(model)


def _serialize(model: ir.Model, stage: TorchStage) -> bytes:
    model.producer_name, model.producer_version, model.graph.name = "edgefuse", None, stage.file_name
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    proto = ir.to_proto(model)
    weights = {weight.name for weight in proto.graph.initializer}
    described = [info for info in proto.graph.value_info if info.name not in weights]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(described)
    invalid = f"the ONNX file of the stage '{stage.spec.name}' is not valid"
    return checked_bytes(proto, lambda got: ExportError(invalid, got=got))


def _outputs_of(stage: TorchStage) -> list[str]:
    """Name the file's outputs as the ports; one that an input has already taken gets a suffix."""
    taken = {port.tensor.name for port in stage.spec.inputs}
    names = [port.tensor.name for port in stage.spec.outputs]
    return [f"{name}_out" if name in taken else name for name in names]


def _binding(tensor: TensorSpec, name: str) -> Binding:
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in tensor.shape)
    return Binding(port=tensor.name, tensor=name, dtype=tensor.dtype, shape=shape)


@cache
def _registry() -> _registration.ONNXRegistry:
    with quiet():
        return _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
