"""The inputs and outputs of an ONNX file as a spec describes them: names, the types of files, sizes, one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgefuse.bundle.spec import Dim, DType, ModelSpec, TensorSpec, spelled
from edgefuse.errors import ModelError
from edgefuse.stages.found.naming import Value, candidates, values_of

TYPES: Mapping[DType, ir.DataType] = {
    "float32": ir.DataType.FLOAT,
    "int32": ir.DataType.INT32,
    "uint8": ir.DataType.UINT8,
}
"""Of the tensors of files, which are those of specs: see `spec.in_files`."""

_WHOLE = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
_TAKES: Mapping[DType, tuple[ir.DataType, ...]] = {
    "float32": (ir.DataType.FLOAT,),
    "int32": _WHOLE,
    "uint8": (ir.DataType.UINT8,),
}
"""What an ONNX file may want where a spec says so: ids and masks are int32 in our files, whatever they are in it."""


@dataclass(frozen=True)
class Taken:
    """A value that the file takes.

    Attributes:
        value: of the spec.
        name: of the input in the file.
    """

    value: Value
    name: str


@dataclass(frozen=True)
class Input:
    """What a file says of an input.

    Attributes:
        name: in the file.
        kind: its type, as the file has it.
        dtype: the type in files of edgefuse; None if they have none.
        shape: of one sample; None if more sizes than the first are open, or it is not declared.
        sizes: as the file spells them.
    """

    name: str
    kind: str
    dtype: DType | None
    shape: tuple[Dim, ...] | None
    sizes: str


def inputs_of(model: ir.Model) -> tuple[Input, ...]:
    """Return what a file says of its inputs."""
    return tuple(map(_declared, _inputs(model)))


def _inputs(model: ir.Model) -> tuple[ir.Value, ...]:
    """Return what a file has to be given: older exporters list weights among the inputs, too."""
    return tuple(value for value in model.graph.inputs if value.name not in model.graph.initializers)


def _declared(value: ir.Value) -> Input:
    held = list(value.shape or ())
    fixed = [size for size in held[1:] if isinstance(size, int)]
    shape = (1, *fixed) if held and len(fixed) == len(held) - 1 else None
    dtypes = {kind: dtype for dtype, kinds in _TAKES.items() for kind in kinds}
    return Input(
        name=str(value.name),
        kind=str(value.dtype).lower(),
        dtype=dtypes.get(value.dtype) if value.dtype is not None else None,
        shape=shape,
        sizes="none" if value.shape is None else str(value.shape),
    )


def taken(model: ir.Model, spec: ModelSpec, names: Mapping[str, str]) -> tuple[Taken, ...]:
    """Return the values that a file takes, in the order of the spec.

    A tensor goes by the name that was given for it or, as where a module is called by keyword, by
    `<modality>_<tensor>`, its modality's name or its own name; see `naming.keywords`.

    Args:
        model: the file.
        spec: of the model, as in files.
        names: of inputs in the file, by the key of the value.

    Raises:
        ModelError: if the spec names tensors that the file does not have, or does not name all that it takes.
    """
    offered = [str(value.name) for value in _inputs(model)]
    found: list[Taken] = []
    missing: list[str] = []
    for value in values_of(spec):
        wanted = [names[value.source.key]] if value.source.key in names else list(candidates(value, spec))
        name = next((name for name in wanted if name in offered and name not in {one.name for one in found}), None)
        if name is not None:
            found.append(Taken(value, name))
        elif value.source.kind == "modality":
            missing.append(" or ".join(wanted))
    left = [name for name in offered if name not in {one.name for one in found}]
    if missing or left:
        raise ModelError(
            f"the inputs of the ONNX file do not match the modalities of '{spec.name}'",
            got=", ".join(left or offered),
            expected=", ".join(missing) or f"only {', '.join(one.name for one in found)}",
            fix="name every input of the file as a tensor of a modality",
        )
    return tuple(found)


def with_ports(model: ir.Model, values: Sequence[Taken], spec: ModelSpec) -> ir.Model:
    """Return a copy of a file that takes one sample of the spec's sizes in the types of files, and gives its outputs.

    Args:
        model: the file.
        values: that it takes.
        spec: of the model, as in files.

    Raises:
        ModelError: if types or sizes differ, or an output is missing.
    """
    copy = model.clone()
    graph = copy.graph
    _forget_shapes(graph)
    by_name = {str(value.name): value for value in graph.inputs}
    _free(graph, {one.value.port for one in values})
    given = [_input(graph, by_name[one.name], one.value) for one in values]
    for value in [value for value in graph.inputs if value not in given]:
        graph.inputs.remove(value)
    graph.inputs.clear()
    graph.inputs.extend(given)
    made = {str(value.name): value for value in graph.outputs}
    results = [_output(graph, made, output.name) for output in spec.outputs]
    graph.outputs.clear()
    graph.outputs.extend(results)
    return copy


def renamed_result(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Return an output of a graph that is a value as float32, under another name.

    Args:
        graph: that computes the value.
        value: to give.
        name: of the output.
    """
    if value.dtype == ir.DataType.FLOAT or value.dtype is None:
        node = unary("Identity", value, f"{name}:Identity")
    else:
        node = unary("Cast", value, f"{name}:Cast", to=ir.DataType.FLOAT)
    graph.append(node)
    result = node.outputs[0]
    result.name, result.type, result.shape = name, ir.TensorType(ir.DataType.FLOAT), value.shape
    return result


def unary(kind: str, value: ir.Value, name: str, to: ir.DataType | None = None) -> ir.Node:
    """Return a node that casts a value, or hands it on; it is in no graph yet.

    Args:
        kind: `Cast` or `Identity`.
        value: that the node takes.
        name: of the node.
        to: the type to cast to.
    """
    made = ir.node(kind, [value], {} if to is None else {"to": to}, name=name)
    made.outputs[0].name = f"{name}:0"
    made.outputs[0].type = value.type if to is None else ir.TensorType(to)
    made.outputs[0].shape = value.shape
    return made


def _forget_shapes(graph: ir.Graph) -> None:
    """Forget the shapes of all that is computed: they were inferred for any batch."""
    for node in graph:
        for value in node.outputs:
            value.shape = None


def _free(graph: ir.Graph, names: set[str]) -> None:
    """Rename what bears the name of a port, and is none."""
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.name in names:
            value.name = f"{value.name}:file"


def _input(graph: ir.Graph, value: ir.Value, wanted: Value) -> ir.Value:
    tensor = wanted.tensor
    if value.dtype not in _TAKES[tensor.dtype]:
        held = ", ".join(str(kind).lower() for kind in _TAKES[tensor.dtype])
        raise ModelError(
            f"the input '{_of_file(value)}' of the ONNX file has another type than its spec says",
            got=str(value.dtype).lower(),
            expected=f"{held} for {tensor.dtype}",
            fix="correct dtype in the recipe, or export the model with this type",
        )
    shape = _sizes(value, tensor)
    given = ir.Value(name=wanted.port, type=ir.TensorType(TYPES[tensor.dtype]), shape=shape)
    uses = list(value.uses())
    graph.inputs.append(given)
    inside: ir.Value = given
    if value.dtype != TYPES[tensor.dtype]:
        cast = unary("Cast", given, f"{wanted.port}:Cast", to=value.dtype)
        graph.insert_before(next(iter(graph)), cast)
        inside = cast.outputs[0]
    for use in uses:
        use.node.replace_input_with(use.idx, inside)
    return given


def _of_file(value: ir.Value) -> str:
    return str(value.name).removesuffix(":file")


def _sizes(value: ir.Value, tensor: TensorSpec) -> ir.Shape:
    """Return the shape of an input for one sample: open where the spec leaves a size open."""
    name = _of_file(value)
    if value.shape is None or len(value.shape) != len(tensor.shape):
        raise _misshapen(value, tensor)
    sizes: list[int | str] = []
    for axis, (held, dim) in enumerate(zip(value.shape, tensor.shape, strict=True)):
        size = held if isinstance(held, int) else None
        if axis == 0:
            if size not in (None, 1):
                raise ModelError(
                    f"the input '{name}' of the ONNX file takes batches of another size than one",
                    got=size,
                    expected="1, or an open size",
                    fix="export the model with one sample, or with the first axis dynamic",
                )
            sizes.append(1)
        elif isinstance(dim, int):
            if size not in (None, dim):
                raise _misshapen(value, tensor)
            sizes.append(dim)
        else:
            if size is not None:
                raise _misshapen(value, tensor)
            sizes.append(str(getattr(held, "value", None) or f"{name}_{axis}"))
    return ir.Shape(sizes)


def _misshapen(value: ir.Value, tensor: TensorSpec) -> ModelError:
    return ModelError(
        f"the input '{_of_file(value)}' of the ONNX file has another shape than its spec says",
        got="unknown" if value.shape is None else str(value.shape),
        expected=spelled(tensor.shape),
        fix="correct the shape in the recipe: the first size is 1, the file's own sizes stay, open ones get a bound",
    )


def _output(graph: ir.Graph, made: Mapping[str, ir.Value], name: str) -> ir.Value:
    value = made.get(name)
    if value is None:
        raise ModelError(
            "the ONNX file does not give an output of its spec",
            got=", ".join(made),
            expected=name,
            fix="name the outputs in the recipe as the file does",
        )
    if value.producer() is None:
        raise ModelError(f"the output '{name}' of the ONNX file is computed from nothing", got="an input or a constant")
    value.name = f"{name}:file"
    return renamed_result(graph, value, name)
