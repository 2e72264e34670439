"""Linear layers written as Gemm over rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgefuse.quantize.onnx.ort.linear import matmuls_to_gemm


def model(total: str) -> ir.Model:
    """Return y = 0.5 + (x W + b), in either order of the last sum."""
    text = f"""
    <ir_version: 9, opset_import: ["" : 20]>
    layer (float[1, 4, 2] x) => (float[1, 4, 2] y)
    <float[2, 2] w = {{1, 2, 3, 4}}, float[2] b = {{1, 1}}, float half = {{0.5}}> {{
        product = MatMul(x, w)
        biased = Add(product, b)
        y = Add({total})
    }}
    """
    made: ir.Model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    return made


@pytest.mark.parametrize("total", ["half, biased", "biased, half"])
def test_a_number_in_a_sum_is_no_row(total: str) -> None:
    made = model(total)
    for node in made.graph:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.shape is None:
                value.shape = ir.Shape([int(size) for size in value.const_value.shape])  # type: ignore[arg-type]
    matmuls_to_gemm(made)
    assert Counter(node.op_type for node in made.graph)["Gemm"] == 1
    run = onnx.reference.ReferenceEvaluator(ir.to_proto(made))
    x = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    (y,) = run.run(None, {"x": x})
    np.testing.assert_allclose(y, 0.5 + (x @ np.array([[1, 2], [3, 4]], np.float32) + 1))
