"""Edits of an ONNX graph that the quantizers share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return the array behind a value, or None if it is computed."""
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def add_constant(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """Add an initializer; one of the same name is taken to be the same.

    Args:
        graph: is changed.
        name: of the initializer.
        array: its value.
    """
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.initializers[name] = value
    return value


def replace_value(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let `new` take the place of `old` in all uses, and among the graph's outputs under its name.

    Args:
        graph: is changed.
        old: loses its uses.
        new: gets them.
    """
    new.type, new.shape = old.type, old.shape
    if old.is_graph_output():
        become_output(graph, old, new)
    old.replace_all_uses_with(new)


def only_use(value: ir.Value) -> tuple[ir.Node, int] | None:
    """Return the node that alone uses a value, and as which input; None if others or the caller see it too."""
    uses = tuple(value.uses())
    return (uses[0].node, uses[0].idx) if len(uses) == 1 and not value.is_graph_output() else None


def become_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Make `new` a graph output instead of `old`, under its name.

    Args:
        graph: is changed.
        old: the output so far.
        new: gets its name.
    """
    name = old.name
    graph.outputs[graph.outputs.index(old)] = new
    old.name = f"{name}/inner"
    new.name = name
