"""Refuse ONNX files that make a runtime read other files, loop without a bound or take memory without one.

ONNX Runtime checks most of what it opens; what it does not is checked here, without the onnx package: text that is no
<<<<<<< HEAD
UTF-8, data in other files, operators of other domains, compiled engines, and sizes that constants ask for.

- `protobuf`: the wire format, field by field;
- `messages`: the messages of an ONNX file;
- `tensors`: constants;
- `graphs`: operators and loops.
=======
UTF-8, data in other files, operators of other domains, compiled engines. Then `graphs` follows shapes from the inputs
on (`operators` names the rules of `shapes` and `products`, `values` works out the numbers that say sizes), and adds up
what a run computes, holds at once, and makes of constants.
>>>>>>> walks
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
