"""Refuse TFLite files that LiteRT would crash on, hang on, or give all memory to, before any runtime opens them.

LiteRT trusts its files: an index out of range is a segmentation fault, a stride of 0 an arithmetic one, a large shape
an allocation without end. So the whole file is read here first, with nothing but numpy.

- `flatbuffer`: follows offsets;
- `schema`: makes records of tables;
- `quantization`: checks scales and zero points;
- `call`: one operator with its tensors and options;
- `shapes`: rules of operators that move, combine and reduce values;
- `products`: rules of convolutions, matrix products, pools and windows;
- `kinds`: the operators that are known, each with its rule;
- `operators`: derives every shape from the operators before it;
- `loops`: proves that loops end;
- `graph`: follows the order of execution and adds up memory and work.
"""

from __future__ import annotations

from edgefuse.bundle.refusal import RefusedError
from edgefuse.bundle.tflite.graph import check_model
from edgefuse.bundle.tflite.schema import read
from edgefuse.errors import BundleError


def refuse_unsafe_tflite(name: str, data: bytes) -> None:
    """Check a TFLite file in full; `name` is for the message.

    Raises:
        BundleError: it is malformed, has something that edgefuse never writes, or would take memory or time without
            a bound.
    """
    try:
        check_model(read(data))
    except RefusedError as refusal:
        raise BundleError(f"the TFLite file '{name}' {refusal}", fix="compile the bundle again") from refusal
