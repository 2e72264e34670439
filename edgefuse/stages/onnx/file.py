"""An ONNX file that somebody else exported: read with its external data, checked, and brought to one set of operators.

The file may come from a stranger: nothing is read outside its folder, and what a bundle could not hold is refused
before any tool in C++ sees it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    InlinePass,
    RemoveUnusedFunctionsPass,
    TopologicalSortPass,
)
from onnxscript.version_converter import convert_version

from edgefuse.bundle.onnx.graphs import check_model
from edgefuse.bundle.onnx.messages import read as read_messages
from edgefuse.bundle.refusal import RefusedError
from edgefuse.errors import ModelError, cited
from edgefuse.files import check_regular, read_regular, reason
from edgefuse.stages.silence import quiet

OPSET = 20
"""The newest operator set whose int8 graphs ONNX Runtime fuses; 21 adds types that older devices do not load."""

_OLDEST = 13
"""Sets before it have other forms of Squeeze, Softmax and ReduceSum, which converters do not always keep."""

_MAX_BYTES = 2**31 - 2**16
"""Of the file with its external data: what one message of protobuf can hold."""

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_QUOTED = re.compile("'([^']*)'")
_AI_ONNX = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was read, its weights in memory."""

    path: Path
    model: ir.Model


def read(path: Path) -> OnnxFile:
    """Read an ONNX file, its weights in memory.

    Args:
        path: of the file; external data lie in its folder, or below.

    Raises:
        ModelError: if it cannot be read, is damaged, leaves its folder, or is no float32 model.
    """
    try:
        data = read_regular(path, _MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise ModelError(f"cannot read the ONNX file {path}", got=reason(error)) from error
    try:
        model = ir.from_proto(onnx.load_model_from_string(data))
        model = InlinePass()(model).model
        RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    except Exception as error:  # of protobuf and of onnx-ir, which raise what they like about a damaged file
        raise ModelError(f"the file {path} is no ONNX file, or damaged", got=cited(error)) from error
    _load_external(model, path)
    _without_empty_ends(model)
    _require_float(model, path)
    TopologicalSortPass()(model)
    _named_plainly(model)
    return OnnxFile(path, model)


def converted(file: OnnxFile) -> ir.Model:
    """Return a copy of a model in the set of operators that files of edgefuse have.

    Raises:
        ModelError: if the set is too old, or an operator of it has no counterpart.
    """
    version, copy = version_of(file.model), file.model.clone()
    if version == OPSET:
        return copy
    problem = f"the ONNX file {file.path} cannot be brought to operator set {OPSET}"
    fix = f"export it with opset_version={OPSET}"
    if version < _OLDEST:
        raise ModelError(problem, got=f"operator set {version}", expected=f"{_OLDEST} or newer", fix=fix)
    try:
        with quiet():
            convert_version(copy, OPSET, fallback=True)
    except Exception as error:  # the converters raise what they like
        raise ModelError(problem, got=f"operator set {version}: {cited(error)}", fix=fix) from error
    if version_of(copy) != OPSET:
        raise ModelError(problem, got=f"operator set {version}, which has operators without a counterpart", fix=fix)
    return copy


def version_of(model: ir.Model) -> int:
    """Return the version of the standard operators that a model asks for; 0 if it asks for none."""
    return max((model.opset_imports.get(domain) or 0 for domain in _AI_ONNX), default=0)


def _load_external(model: ir.Model, path: Path) -> None:
    """Take tensors that lie in other files into memory; onnx-ir refuses what is not in the folder, or linked to."""
    outside = [tensor for tensor in _tensors(model) if isinstance(tensor, ir.ExternalTensor)]
    total = sum(tensor.nbytes for tensor in outside)
    if total > _MAX_BYTES:
        raise ModelError(
            f"the ONNX file {path} is too large", got=f"{total} bytes of weights", expected=f"at most {_MAX_BYTES}"
        )
    loaded: dict[int, ir.TensorProtocol] = {}
    for tensor in outside:
        try:
            tensor.base_dir = path.parent if str(path.parent) else Path()
            check_regular(path.parent / tensor.location)
            held = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
        except Exception as error:  # of the system, of numpy's and of onnx-ir's checks
            got = f"'{tensor.location}': " + (reason(error) if isinstance(error, OSError) else cited(error))
            raise ModelError(
                f"external data of the ONNX file {path} cannot be read",
                got=got,
                expected="files in its folder that are no links to elsewhere, as long as it says",
                fix=f"put them beside {path.name}",
            ) from error
        loaded[id(tensor)] = held
    for graph in model.graphs():
        for value in graph.initializers.values():
            value.const_value = loaded.get(id(value.const_value), value.const_value)
    for graph in model.graphs():
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and id(attribute.value) in loaded:
                    node.attributes[name] = ir.AttrTensor(name, loaded[id(attribute.value)])


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        yield from (value.const_value for value in graph.initializers.values() if value.const_value is not None)
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and attribute.value is not None:
                    yield attribute.value
                elif attribute.type == ir.AttributeType.TENSORS and attribute.value is not None:
                    yield from attribute.value


def _without_empty_ends(model: ir.Model) -> None:
    """Leave out optional inputs that are named as absent at the end, as torch's older exporter writes them."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        count = len(node.inputs)
        while count and node.inputs[count - 1] is None and node.op_type != "Loop":
            count -= 1
        node.resize_inputs(count)


def check(model: ir.Model, path: Path) -> None:
    """Hold a file to what bundles may hold, which devices and tools in C++ rely on.

    Args:
        model: for one sample: of a batch without a bound, any model needs too much.
        path: of the file, for errors.

    Raises:
        ModelError: if it asks for operators or amounts that no bundle may have.
    """
    try:
        data = ir.to_proto(model).SerializeToString()
        check_model(read_messages(data), data)
    except RefusedError as refusal:
        raise ModelError(
            f"the ONNX file {path} {refusal}",
            fix="export the model with the operators of ONNX alone",
        ) from refusal
    except Exception as error:  # of onnx-ir and protobuf
        raise ModelError(f"the ONNX file {path} is damaged", got=cited(error)) from error


def _require_float(model: ir.Model, path: Path) -> None:
    """Refuse a file that was compressed before: what a compile loses is told against float32."""
    kinds = {node.op_type for node in ir.traversal.RecursiveGraphIterator(model.graph)}
    quantized = sorted(kind for kind in kinds if "uantize" in kind or kind.startswith(("QLinear", "MatMulN")))
    half = any(tensor.dtype in _HALF for tensor in _tensors(model))
    if quantized or half:
        raise ModelError(
            f"the ONNX file {path} is no float32 model",
            got=f"the operators {', '.join(quantized)}" if quantized else "weights of 16 bits",
            expected="a float32 model: edgefuse chooses the precision of each stage",
            fix="export it without quantization and half precision",
        )


def _named_plainly(model: ir.Model) -> None:
    """Give names to nodes, by which reports and schemes name layers, and drop what exporters leave for people besides.

    Torch's newer exporter numbers nodes, and says in their metadata which module each comes from.
    """
    seen: Counter[str] = Counter()
    for node in model.graph:
        scopes = _QUOTED.findall(node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
        module = scopes[-2] if len(scopes) > 1 else ""
        if module:
            name = f"{module}/{node.op_type}"
            node.name = f"{name}_{seen[name]}" if seen[name] else name
            seen[name] += 1
    ClearMetadataAndDocStringPass()(model)
