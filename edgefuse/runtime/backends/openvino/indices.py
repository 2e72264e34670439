"""Indices that OpenVINO trusts, held within what they index: a hostile file's, or a hostile input's, end the process.

`GatherND` reads wherever an index points, and `ScatterElementsUpdate` writes where a negative one does (2026.4). All
others look by themselves. An index within its bounds stays what it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefuse.runtime.backends.openvino.api import operators


def hold(model: Any) -> None:
    """Put bounds before the indices of a model that OpenVINO does not look at."""
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind == "GatherND":
            skipped = int(op.get_attributes()["batch_dims"])
            depth = op.input_value(1).get_partial_shape()[-1].get_length()
            _bound(op, skipped, skipped + depth)
        elif kind == "ScatterElementsUpdate":
            axes = op.input_value(3).get_node()
            rank = op.input_value(0).get_partial_shape().rank.get_length()
            axis = int(axes.get_data().ravel()[0]) % rank
            _bound(op, axis, axis + 1)


def _bound(op: Any, begin: int, end: int) -> None:
    """Hold the indices of an operator within the sizes of what it indexes.

    Args:
        op: of the model.
        begin: the first axis that is indexed.
        end: the axis behind the last one.
    """
    indices = op.input_value(1)
    kind = "i32" if indices.get_element_type().get_type_name() == "i32" else "i64"
    sizes = operators.shape_of(op.input_value(0), output_type=kind)
    places = operators.constant(list(range(begin, end)), dtype=np.int64)
    sizes = operators.gather(sizes, places, operators.constant(0, dtype=np.int64))
    one, none = (operators.constant([number], dtype=np.int32 if kind == "i32" else np.int64) for number in (1, 0))
    below = operators.minimum(operators.convert(indices, kind), operators.subtract(sizes, one))
    held = operators.maximum(below, operators.subtract(none, sizes))
    op.input(1).replace_source_output(held.output(0))
