"""Whole TFLite files, and edits that make them hostile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.attack.tflite_builder import pack, unpack
from tests.attack.tflite_files import FILES

SEEDS = {name: make() for name, make in FILES.items()}


def edited(name: str, edit: Callable[[Any], object]) -> bytes:
    model = unpack(SEEDS[name])
    edit(model)
    return pack(model)


def main(model: Any) -> Any:
    return model.subgraphs[0]


def operator(model: Any, kind: str, graph: int = 0) -> Any:
    """Return the first operator of a kind."""
    code = getattr(schema.BuiltinOperator, kind)
    codes = [each.builtinCode for each in model.operatorCodes]
    return next(each for each in model.subgraphs[graph].operators if codes[each.opcodeIndex] == code)


def with_options(kind: str, **changes: Any) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        found = operator(model, kind)
        for name, value in changes.items():
            setattr(found.builtinOptions or found.builtinOptions2, name, value)

    return edit


def with_tensor(kind: str, side: str, position: int, **changes: Any) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        tensor = main(model).tensors[getattr(operator(model, kind), side)[position]]
        for name, value in changes.items():
            setattr(tensor, name, value)

    return edit


def with_constant(kind: str, position: int, values: Any) -> Callable[[Any], None]:
    """Put other values into the constant that an operator reads."""

    def edit(model: Any) -> None:
        tensor = main(model).tensors[operator(model, kind).inputs[position]]
        array = np.array(values, np.int32)
        tensor.shape = np.array(array.shape, np.int32)
        model.buffers.append(schema.BufferT(data=np.frombuffer(array.tobytes(), np.uint8)))
        tensor.buffer = len(model.buffers) - 1

    return edit


def with_quantization(kind: str, side: str, position: int, **changes: Any) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        tensor = main(model).tensors[getattr(operator(model, kind), side)[position]]
        for name, value in changes.items():
            setattr(tensor.quantization, name, value)

    return edit


def of_loop(graph: int, kind: str, position: int, value: int) -> Callable[[Any], None]:
    """Put another integer into the constant that an operator of a loop's graph reads."""

    def edit(model: Any) -> None:
        tensor = model.subgraphs[graph].tensors[operator(model, kind, graph).inputs[position]]
        model.buffers.append(schema.BufferT(data=np.frombuffer(np.int32(value).tobytes(), np.uint8)))
        tensor.buffer = len(model.buffers) - 1

    return edit


def set_signature(model: Any, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(model.signatureDefs[0], name, value)


def set_port(model: Any, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(model.signatureDefs[0].outputs[0], name, value)


def set_ends(model: Any, side: str, index: int) -> None:
    """Let the main graph begin or end with another tensor, in a file without signatures."""
    model.signatureDefs = []
    setattr(main(model), side, [index])


def set_inputs(model: Any, kind: str, *inputs: int) -> None:
    operator(model, kind).inputs = np.array(inputs, np.int32)


def add_twice(model: Any) -> None:
    main(model).operators.append(main(model).operators[0])


def turn_around(model: Any) -> None:
    main(model).operators.reverse()


def make_custom(model: Any) -> None:
    model.operatorCodes[0] = schema.OperatorCodeT(deprecatedBuiltinCode=32, builtinCode=32, customCode=b"mine")


def set_code(code: int) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        model.operatorCodes[0] = schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=1)

    return edit


def add_graph(model: Any) -> None:
    model.subgraphs.append(schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[]))
