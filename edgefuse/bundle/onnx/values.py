"""Work out the few numbers in an ONNX graph that say sizes: what is made of constants and of the shapes of inputs.

Types are kept, since integers of 32 bits wrap around where those of 64 do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from edgefuse.bundle.onnx.call import Call
from edgefuse.bundle.onnx.tensors import MAX_LIST, NUMPY, Array

Fold: TypeAlias = Callable[..., Any]


def _divide(left: Any, right: Any) -> Any:
    if left.dtype.kind not in "iu":
        return left / right
    whole = np.where(right == 0, 1, right)
    return (np.sign(left) * np.sign(whole) * (np.abs(left) // np.abs(whole))).astype(left.dtype)


def _modulo(left: Any, right: Any) -> Any:
    return np.mod(left, np.where(right == 0, 1, right))


# Operators number by number, whose inputs all must be known.
_PLAIN: Mapping[str, Fold] = MappingProxyType(
    {
        **{"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "Neg": np.negative, "Abs": np.abs},
        **{"Floor": np.floor, "Ceil": np.ceil, "Round": np.round, "Sqrt": np.sqrt, "Sign": np.sign, "Pow": np.power},
        **{"Equal": np.equal, "Less": np.less, "Greater": np.greater, "LessOrEqual": np.less_equal},
        **{"GreaterOrEqual": np.greater_equal, "Not": np.logical_not, "And": np.logical_and, "Or": np.logical_or},
        **{"Where": np.where, "Identity": lambda value: value, "Relu": lambda value: np.maximum(value, 0)},
        "Max": lambda *values: _all(np.maximum, values),
        "Min": lambda *values: _all(np.minimum, values),
        "Sum": lambda *values: _all(np.add, values),
    }
)
_REDUCTIONS: Mapping[str, Fold] = MappingProxyType(
    {"ReduceProd": np.prod, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min}
)


def _all(pair: Fold, values: tuple[Any, ...]) -> Any:
    total = values[0]
    for each in values[1:]:
        total = pair(total, each)
    return total


def fold(call: Call) -> Array | None:
    """Return the numbers that an operator makes, None where they are many or only a run says them."""
    first = call.optional(0)
    if call.kind in ("Shape", "Size"):
        return _measured(call) if first and first.exact and first.parts is None else None
    maker = _MAKERS.get(call.kind)
    if maker is None and call.kind not in _PLAIN and call.kind not in _REDUCTIONS:
        return None
    values = [each.values if each else None for each in call.inputs]
    if not values or any(value is None and each is not None for value, each in zip(values, call.inputs, strict=True)):
        return None
    try:
        with np.errstate(all="ignore"):
            if maker is not None:
                made = np.asarray(maker(call, *values))
            elif call.kind in _PLAIN:
                made = np.asarray(_PLAIN[call.kind](*values))
            else:
                made = _reduced(call, values[0])
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError):
        return None  # what does not fit, a runtime refuses, too
    fits = made.size <= MAX_LIST and (made.dtype.kind != "f" or bool(np.isfinite(made).all()))
    return made if fits and made.dtype.kind in "iufb" else None


def _measured(call: Call) -> Array:
    shape = call.shape()
    if call.kind == "Size":
        return np.array(min(call.input(0).elements, 2**62))
    begin, end = call.integer("start", 0), call.integer("end", len(shape))
    return np.array([min(size, 2**62) for size in shape[begin:end]], np.int64)


def _reduced(call: Call, value: Any) -> Array:
    axes = call.listed(1, "axes") or tuple(range(value.ndim))
    if call.integer("noop_with_empty_axes", 0) and not call.listed(1, "axes"):
        return np.asarray(value)
    keep = bool(call.integer("keepdims", 1))
    return np.asarray(_REDUCTIONS[call.kind](value, axis=axes, keepdims=keep), value.dtype)


def _cast(call: Call, value: Any) -> Any:
    return value.astype(NUMPY[call.integer("to", 0)])


def _gather(call: Call, value: Any, indices: Any) -> Any:
    return np.take(value, indices, axis=call.integer("axis", 0))


def _concat(call: Call, *values: Any) -> Any:
    return np.concatenate(values, axis=call.integer("axis", 0))


def _reshape(call: Call, value: Any, shape: Any) -> Any:
    return value.reshape([size or value.shape[place] for place, size in enumerate(shape.tolist())])


def _squeeze(call: Call, value: Any, *axes: Any) -> Any:
    listed = call.listed(1, "axes")
    return np.squeeze(value, axis=listed or None)


def _unsqueeze(call: Call, value: Any, *axes: Any) -> Any:
    return np.expand_dims(value, call.listed(1, "axes") or ())


def _slice(call: Call, value: Any, *rest: Any) -> Any:
    begins, ends = call.listed(1, "starts") or (), call.listed(2, "ends") or ()
    axes = call.listed(3, "axes") or tuple(range(len(begins)))
    steps = call.listed(4, "steps") or (1,) * len(begins)
    parts = [slice(None)] * value.ndim
    for axis, begin, end, step in zip(axes, begins, ends, steps, strict=True):
        parts[axis] = slice(begin, None if step < 0 and end < -value.shape[axis] else end, step)
    return value[tuple(parts)]


def _expand(call: Call, value: Any, shape: Any) -> Any:
    if np.prod(np.abs(shape.astype(np.float64))) > MAX_LIST:
        raise ValueError("many")
    return np.broadcast_to(value, np.broadcast_shapes(value.shape, tuple(shape.tolist())))


def _filled(call: Call, shape: Any) -> Any:
    value = call.held if "value" in call.attributes else np.zeros(1, np.float32)
    if value is None or not value.size or np.prod(np.abs(shape.astype(np.float64))) > MAX_LIST:
        raise ValueError("many")
    return np.full(shape.tolist(), value.ravel()[0], value.dtype)


def _range(call: Call, begin: Any, end: Any, step: Any) -> Any:
    begin, end, step = (each.ravel()[0] for each in (begin, end, step))
    if not step or not abs((float(end) - float(begin)) / float(step)) <= MAX_LIST:
        raise ValueError("many")
    return np.arange(begin, end, step, dtype=begin.dtype)


def _clip(call: Call, value: Any, low: Any = None, high: Any = None) -> Any:
    if call.attributes:
        raise ValueError("bounds of an older file")
    return value if low is None and high is None else np.clip(value, low, high)


def _transpose(call: Call, value: Any) -> Any:
    return np.transpose(value, call.integers("perm") or None)


_MAKERS: Mapping[str, Fold] = MappingProxyType(
    {
        **{"Cast": _cast, "Gather": _gather, "Concat": _concat, "Reshape": _reshape, "Squeeze": _squeeze},
        **{"Unsqueeze": _unsqueeze, "Slice": _slice, "Expand": _expand, "ConstantOfShape": _filled},
        **{"Range": _range, "Clip": _clip, "Transpose": _transpose},
        "Mod": lambda call, *values: _modulo(*values) if not call.integer("fmod", 0) else np.fmod(*values),
    }
)
