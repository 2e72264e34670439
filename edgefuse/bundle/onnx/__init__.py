"""Refuse ONNX files that make a runtime read other files, loop without a bound or take memory without one.

ONNX Runtime checks most of what it opens; what it does not is checked here, without the onnx package: text that is no
UTF-8, data in other files, operators of other domains, compiled engines. Then shapes are followed from the inputs
on, and what a run computes, holds at once and makes of constants is added up.

- `protobuf`: the wire format, field by field;
- `messages`: the messages of an ONNX file;
- `tensors`: constants;
- `values`: the numbers that say sizes;
- `call`: an operator with what is known of its inputs;
- `inputs`: which inputs may be left out;
- `shapes`: rules of operators that move and choose values;
- `products`: rules of operators that compute with weights;
- `operators`: the rules by name;
- `nodes`: the nodes of a graph, one after the other;
- `graphs`: all graphs of a file, and its bounds.
"""

from __future__ import annotations

from edgefuse.bundle.onnx.graphs import check_model
from edgefuse.bundle.onnx.messages import read
from edgefuse.bundle.refusal import RefusedError
from edgefuse.errors import BundleError


def refuse_unsafe_onnx(name: str, data: bytes) -> None:
    """Check a serialized ModelProto; `name` is for the message.

    Raises:
        BundleError: it refers to something outside of itself, its encoding is malformed, or it asks for more steps or
            memory than any model needs.
    """
    try:
        check_model(read(data), data)
    except RefusedError as refusal:
        raise BundleError(f"the ONNX file '{name}' {refusal}", fix="compile the bundle again") from refusal
