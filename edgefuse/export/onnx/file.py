"""The bytes of an ONNX graph, checked: the last step of lowering and of quantizing."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from edgefuse.errors import EdgefuseError, cited


def checked_bytes(proto: onnx.ModelProto, invalid: Callable[[str], EdgefuseError]) -> bytes:
    """Return the bytes of a graph, the same for the same graph; raise what `invalid` makes of a complaint about it."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise invalid(cited(error)) from error
    data: bytes = proto.SerializeToString(deterministic=True)
    return data
