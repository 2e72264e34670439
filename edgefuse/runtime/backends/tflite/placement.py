"""Where LiteRT runs a TFLite file: the operators that XNNPACK took, from LiteRT's plan.

The interpreter lists the file's operators and, behind them, one `DELEGATE` for each part that a delegate took, with the
tensors that go in and come out. What lies on the way back from its outputs to its inputs is in that part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from edgefuse.errors import BackendError
from edgefuse.runtime.backends.backend import Operator

_DELEGATE = "DELEGATE"
_BUILT_IN = "not taken by XNNPACK"


def operators(interpreter: Any) -> tuple[Operator, ...]:
    """Return the operators of the main graph, in its order.

    Args:
        interpreter: that has run: shapes of inputs without a fixed size, and a delegate, wait for that.

    Raises:
        BackendError: if this version does not list its operators.
    """
    details = listed(interpreter)
    shapes = {tensor["index"]: [int(size) for size in tensor["shape"]] for tensor in interpreter.get_tensor_details()}
    delegated = taken(details)
    return tuple(
        Operator(op["op_name"], macs(op, shapes), "" if op["index"] in delegated else _BUILT_IN)
        for op in details
        if op["op_name"] != _DELEGATE
    )


def listed(interpreter: Any) -> list[dict[str, Any]]:
    """Return the operators as LiteRT lists them, which no public method does; `BackendError` where it does not."""
    if not hasattr(interpreter, "_get_ops_details"):
        raise BackendError("this version of the TFLite runtime does not list its operators")
    details: list[dict[str, Any]] = interpreter._get_ops_details()
    return details


def taken(details: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the indices of the operators that lie within a delegate."""
    makers = {int(tensor): op for op in details if op["op_name"] != _DELEGATE for tensor in op["outputs"]}
    found: set[int] = set()
    for delegate in (op for op in details if op["op_name"] == _DELEGATE):
        outside = {int(tensor) for tensor in delegate["inputs"]}
        pending = [int(tensor) for tensor in delegate["outputs"]]
        while pending:
            tensor = pending.pop()
            op = makers.get(tensor)
            if op is not None and tensor not in outside and op["index"] not in found:
                found.add(op["index"])
                pending += [int(source) for source in op["inputs"]]
    return found


def macs(op: Mapping[str, Any], shapes: Mapping[int, Sequence[int]]) -> int:
    """Return the multiplications of an operator by its weights or its second factor; 0 for one that has none."""
    if len(op["inputs"]) < 2 or len(op["outputs"]) == 0:
        return 0
    result = shapes.get(int(op["outputs"][0]), [])
    left, right = (shapes.get(int(tensor), []) for tensor in op["inputs"][:2])
    per_value = {
        "FULLY_CONNECTED": right[-1:],
        "CONV_2D": right[1:],
        "DEPTHWISE_CONV_2D": right[1:3],
        "BATCH_MATMUL": left[-1:],
    }.get(op["op_name"])
    return prod(result) * prod(per_value) if per_value else 0
