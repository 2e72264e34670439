"""From an ONNX graph back to a file; a scheme that changes nothing in it is an error."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass, TopologicalSortPass

from edgefuse.bundle.scheme import Scheme
from edgefuse.errors import QuantizeError
from edgefuse.export.onnx.file import checked_bytes


def serialize(model: ir.Model, scheme: Scheme) -> bytes:
    """Return the bytes of a graph without what nothing uses, the same for the same graph.

    Raises:
        QuantizeError: if it is not valid ONNX.
    """
    RemoveUnusedNodesPass()(model)
    DeduplicateInitializersPass()(model)
    TopologicalSortPass()(model)
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return checked_bytes(proto, lambda got: QuantizeError(f"'{scheme.id}' made a file that is not valid ONNX", got=got))


def nothing_to_do(scheme: Scheme, wanted: str) -> QuantizeError:
    """Return the error of a scheme that finds nothing to work on."""
    return QuantizeError(
        f"'{scheme.id}' finds nothing to quantize in this stage",
        expected=f"at least {wanted} that the scheme does not exclude",
        fix="leave the scheme out for this stage",
    )
