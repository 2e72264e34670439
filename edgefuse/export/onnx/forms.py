"""Rewrites that every runtime of ONNX files gains by; the results stay within the float tolerance.

Each rewrite is a rule of onnxscript's rewriter: a graph that does not match stays as it is.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass
from onnxscript.rewriter import RewritePass, RewriteRule

from edgefuse.export.onnx.attention import split_heads
from edgefuse.export.onnx.spectrum import factor_spectrum


def apply_common_forms(model: ir.Model, rules: tuple[RewriteRule, ...] = ()) -> None:
    """Rewrite a graph, make its constants initializers, and infer its shapes, in place.

    Args:
        model: the graph.
        rules: of a runtime's own, besides those that all gain by.
    """
    RewritePass([split_heads(), factor_spectrum(), *rules])(model)
    model.graph.sort()  # a part of a packed projection may have been read before the last is cut: keys as a state
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    ShapeInferencePass()(model)
