"""The table of operators, written by hand for every TensorRT from 10.0, against the builder of TensorRT for RTX.

The graphs are those that ONNX brings to test its operators, one of a kind each, at the operator set that we write. What
is no data (shapes, axes, bounds) is a constant, as it is in our graphs.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from edgefuse.export.target import Lowered
from edgefuse.export.tensorrt import builder
from edgefuse.export.tensorrt.operators import NEWEST_OPSET, TYPES, refused
from tests.export.tensorrt_builder import needs_builder

pytestmark = [pytest.mark.slow, needs_builder]

TAKEN_BY_RTX = {
    "(of int8)": "our int8 stands between a Q and a DQ only; anything else came after TensorRT 10.0",
    "CumSum (of int": "NVIDIA's matrix names sums of floats",
    "(of double)": "it is made float32 without a word",
    "(of bfloat16)": "nothing here makes it, and what it is fused with on a Jetson nobody has seen",
    "over other than 2 or 3 dimensions": "pools over one dimension came after 10.0",
    "Resize (in a mode": "NVIDIA's matrix does not name cubic resizing",
    "with layout or input_forget": "the layout of batches first came after 10.0",
    "Pow (of int": "powers of integers came after 10.0",
    "Constant (unknown": "none is left: every constant is lifted to an initializer",
    "Dropout (unknown": "none is left: dropout does nothing in inference",
    "If (unknown": "what decides shapes or branches by values is not measured here",
    "Scan (unknown": "nothing here makes it",
}
"""Part of what the table says, and why it stays: the table speaks for older editions than the builder."""

UNTRIED = {"GlobalLpPool", "GroupNormalization", "MeanVarianceNormalization"}
"""Operators of the table of which ONNX has no test that is one node at our operator set."""

_ALL_CONSTANT = {"ConstantOfShape", "Range"}
_OF_EACH = 2
"""Graphs of an operator that the table takes; of those that it refuses, one for each reason."""


def cases() -> Iterator[tuple[str, onnx.ModelProto, tuple[str, ...]]]:
    """Yield ONNX's tests of single operators, those that are valid at our operator set, with what the table says."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, over the infinities that the tests are about
        found = collect_testcases(None)
    taken: Counter[tuple[str, str]] = Counter()
    for case in found:
        if case.name.endswith("_expanded") or case.model is None or len(case.model.graph.node) != 1:
            continue
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        model.ir_version, model.opset_import[0].version = 10, NEWEST_OPSET
        if case.data_sets:
            _fix(model, case.data_sets[0][0])
        if not _is_valid(model):
            continue
        said = _said(model)
        kind = (model.graph.node[0].op_type, said[0].partition(" in '")[0] if said else "")
        taken[kind] += 1
        if taken[kind] <= (1 if said else _OF_EACH):
            yield case.name, model, said


def _said(model: onnx.ModelProto) -> tuple[str, ...]:
    typed: ir.Model = ir.from_proto(model)
    ShapeInferencePass()(typed)
    return refused(typed)


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _fix(model: onnx.ModelProto, feeds: list[object]) -> None:
    """Make constants of what is no data: all inputs but the first, and that one too where it decides a shape."""
    first = 0 if model.graph.node[0].op_type in _ALL_CONSTANT else 1
    names = [value.name for value in model.graph.input]
    for name, array in list(zip(names, feeds, strict=False))[first:]:
        if isinstance(array, np.ndarray | np.generic):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    known = {weight.name for weight in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in known]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def judged(which: slice) -> list[tuple[str, tuple[str, ...], str | None]]:
    """Return the names of some of the cases, what the table says of each, and what the builder does."""
    names, models, said = zip(*list(cases())[which], strict=True)
    files = [Lowered(model.SerializeToString(), (), (), "", None) for model in models]
    refusals = [built.refusal for built in builder.build(files, ("SM86",))]
    return list(zip(names, said, refusals, strict=True))


def test_the_table_and_the_builder_agree_on_a_sample() -> None:
    _, models, _ = zip(*cases(), strict=True)
    missing = TYPES.keys() - {model.graph.node[0].op_type for model in models}
    assert missing == UNTRIED
    assert [name for name, table, refusal in judged(slice(None, None, 8)) if refusal and not table] == []


@pytest.mark.exhaustive
def test_the_table_and_the_builder_agree() -> None:
    """The builder takes whatever the table takes; what only the builder takes has an explanation."""
    rows = judged(slice(None))
    assert [(name, refusal) for name, table, refusal in rows if refusal and not table] == []
    only_rtx = [(name, table[0]) for name, table, refusal in rows if table and not refusal]
    assert [(name, text) for name, text in only_rtx if not any(part in text for part in TAKEN_BY_RTX)] == []
    assert [part for part in TAKEN_BY_RTX if not any(part in text for _, text in only_rtx)] == []
