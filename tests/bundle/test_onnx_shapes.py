"""What the walk says of shapes and sizes is what ONNX's own test cases say, and every operator is known or refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.numpy_helper
from onnx.backend.test.case.node import collect_testcases

from edgefuse.bundle.onnx import graphs, messages
from edgefuse.bundle.onnx.call import Value
from edgefuse.bundle.onnx.operators import RULES, SEQUENCES
from edgefuse.bundle.refusal import RefusedError

REFUSED = frozenset(
    {
        *("Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("BitCast", "CausalConvWithState", "ImageDecoder", "LinearAttention", "MaxRoiPool", "MelWeightMatrix"),
        *("Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement"),
        *("RegexFullMatch", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap"),
        *("SoftmaxCrossEntropyLoss", "StringConcat", "StringNormalizer", "StringSplit", "SwiGLU", "TfIdfVectorizer"),
    }
)
"""Those of `ai.onnx` that edgefuse does not know: text, optional values, losses, chance, and what no model of ours has.

Chance: ONNX Runtime dies on bounds that are none (a `high` of NaN), and golden vectors could not hold such a file."""


def _cases() -> Iterator[tuple[str, onnx.ModelProto, list[Any]]]:
    """Yield models whose inputs stand in them, with what they answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        model = case.model
        if model is None or model.functions or not case.data_sets:
            continue
        inputs, outputs = case.data_sets[0]
        arrays = [each for each in (*inputs, *outputs) if isinstance(each, np.ndarray | np.generic)]
        if len(arrays) != len(inputs) + len(outputs) or any(each.dtype.kind in "OSU" for each in arrays):
            continue
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for value, array in zip(model.graph.input, inputs, strict=False):
            changed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), value.name))
        del changed.graph.input[:]
        yield case.name, changed, [np.asarray(each) for each in outputs]


def _fits(value: Value, array: Any) -> bool:
    if value.exact and value.shape != array.shape:
        return False
    return value.elements >= array.size and (value.values is None or np.array_equal(value.values, array))


def test_shapes_and_sizes_are_those_of_the_test_cases_of_onnx() -> None:
    wrong, compared = [], 0
    for name, model, outputs in _cases():
        data = model.SerializeToString()
        walk = graphs._Walk(data, overridable=False)
        try:
            values, _ = walk.graph(messages.read(data).all(7)[0], graphs._Scope(None), [])
        except RefusedError:
            continue
        compared += len(values)
        wrong += [
            f"{name}: {value.shape} is not {array.shape}"
            for value, array in zip(values, outputs, strict=False)
            if not _fits(value, array)
        ]
    assert wrong == []
    assert compared > 1_500


def test_every_operator_of_onnx_is_known_or_refused() -> None:
    names = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert names - RULES.keys() - SEQUENCES - {"Constant", "If", "Loop", "Scan"} == REFUSED
