"""In which precision OpenVINO runs an ONNX file: its runtime model, held against the model that it was made from.

The runtime model lists what runs, with the precision of each and the names of the operators that it stands for. The
model before that says which products have weights in int8, and with the feeds' shapes, how much they multiply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import BackendError
from edgefuse.runtime.backends.backend import Array, InputPorts, Operator, SessionOptions
from edgefuse.runtime.backends.openvino.session import opened, read, said

_FLOAT = "float after DequantizeLinear"
_NO_WORK = frozenset({"Const", "Input", "Output"})
_PRODUCTS = frozenset({"Convolution", "GroupConvolution", "MatMul"})
_MOVES = frozenset({"Convert", "Multiply", "Reshape", "Subtract", "Transpose", "Unsqueeze"})
_ADDED = "/Dequantization"  # begins what OpenVINO appends to names of what it splits
_SMALL = frozenset({"i8", "u8", "int8_t", "uint8_t"})


def operators(
    data: bytes,
    inputs: tuple[Binding, ...],
    outputs: tuple[Binding, ...],
    feeds: Mapping[str, Array],
    options: SessionOptions,
) -> tuple[Operator, ...]:
    """Return the operators of the graph that runs, in its order.

    Args:
        data: the file.
        inputs: bindings of its ports.
        outputs: bindings of its ports.
        feeds: arrays by port, batch first.
        options: of the session.

    Raises:
        BackendError: if the file cannot be opened or run, or this version does not tell what runs.
    """
    model = read(data)
    arranged = InputPorts(inputs).arrange(feeds)
    try:
        model.reshape({name: list(value.shape) for name, value in arranged.items()})
    except RuntimeError as error:
        raise BackendError("OpenVINO cannot give a stage the shapes of its feeds", got=said(error)) from error
    products = [op for op in model.get_ordered_ops() if op.get_type_name() in _PRODUCTS]
    macs = [_macs(op) for op in products]
    quantized = [_has_small_weights(op) for op in products]
    origins = {name: index for index, op in enumerate(products) for name in _names(op)}
    session = opened(model, inputs, outputs, options)
    session.run(feeds)
    found = []
    for kind, names, wide in _running(session.compiled):
        made_of = {origins.pop(name) for name in names if name in origins}
        origins = {name: index for name, index in origins.items() if index not in made_of}
        stayed = wide and any(quantized[index] for index in made_of)
        found.append(Operator(kind, sum(macs[index] for index in made_of), _FLOAT if stayed else ""))
    return tuple(found)


def _running(compiled: Any) -> list[tuple[str, list[str], bool]]:
    """Return kind, names of the originals, and whether it computes in float, of all that runs.

    The precision is that in the kernel's name (`brgemm_avx512_u8`): `runtimePrecision` may be that of the weights.
    """
    found = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        about = {name: str(value.value) for name, value in op.get_rt_info().items()}
        kind = about.get("layerType")
        if kind is None or "primitiveType" not in about:
            raise BackendError("this version of OpenVINO does not tell what it runs")
        if kind not in _NO_WORK:
            names = [name.partition(_ADDED)[0] for name in about.get("originalLayersNames", "").split(",")]
            found.append((kind, names, about["primitiveType"].rpartition("_")[2].lower() not in _SMALL))
    return found


def _names(product: Any) -> Iterator[str]:
    """Yield the names that a product may run under: its own, and those of the scale and bias that it is fused with."""
    node = product
    while True:
        yield str(node.get_friendly_name())
        followers = list(node.output(0).get_target_inputs())
        if len(followers) != 1 or (node := followers[0].get_node()).get_type_name() not in ("Add", "Multiply"):
            return
        if not any(_constant(port.get_node()) for port in node.input_values()):
            return


def _constant(source: Any) -> Any:
    """Return the constant that a node makes a value of; None if the value is computed."""
    while source.get_type_name() in _MOVES:
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None


def _has_small_weights(op: Any) -> bool:
    """Tell whether the second factor of a product comes from a constant of int8."""
    weights = _constant(op.input_value(1).get_node())
    return weights is not None and weights.get_element_type().get_type_name() in _SMALL


def _macs(op: Any) -> int:
    """Return the multiplications of a convolution or a product of matrices."""
    result, left, right = (list(port.get_shape()) for port in (op.output(0), op.input(0), op.input(1)))
    if op.get_type_name() == "MatMul":
        return int(prod(result) * left[-2 if op.get_attributes()["transpose_a"] else -1])
    return int(prod(result) * prod(right[1 if op.get_type_name() == "Convolution" else 2 :]))
