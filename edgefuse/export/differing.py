"""The operator of a stage at which the answers of a file begin to differ from torch's.

It is found by lowering the first part of the stage alone, up to one operator and up to another, by halves: whatever the
format, and whichever of a converter, a rewriting or a runtime is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec
import torch
from torch import fx, nn

from edgefuse.bundle.spec import StageOutput, StageSpec, TensorSpec
from edgefuse.errors import DisagreementError, EdgefuseError
from edgefuse.export.target import Lowered
from edgefuse.export.tracing import named_operators
from edgefuse.stages.examples import example_inputs
from edgefuse.stages.silence import quiet
from edgefuse.stages.stage import TorchStage

_SECONDS = 20.0
"""For a search: what is known by then is said, and nothing is lowered after it."""


def explained(lower: Callable[[TorchStage], Lowered], stage: TorchStage) -> Lowered:
    """Lower a stage; errors are those of `lower`, and one that says that answers differ names the operator, too.

    Args:
        lower: makes a file and compares its answers with torch's.
        stage: to lower.
    """
    try:
        return lower(stage)
    except DisagreementError as error:
        if named := first_that_differs(lower, stage, error.shapes):
            raise error.from_operator(named) from error
        raise


def first_that_differs(
    lower: Callable[[TorchStage], Lowered], stage: TorchStage, shapes: Mapping[str, Sequence[int]]
) -> str:
    """Return the first operator whose value differs, with its module and the user's line; empty if none is found.

    Args:
        lower: makes a file and compares its answers with torch's.
        stage: whose file differs.
        shapes: of the inputs at which it does.
    """
    until = time.monotonic() + _SECONDS
    fixed = replace(stage, spec=_fixed(stage.spec, shapes))
    try:
        with quiet():
            whole = torch.export.export(fixed.module, example_inputs(fixed), strict=False).module(check_guards=False)
    except Exception:  # noqa: BLE001 - torch raises whatever the module's own code raises, and it was traced before
        return ""
    nodes = [node for node in whole.graph.nodes if _is_a_value(node)]
    low, high = -1, len(nodes)  # all up to `low` agree; all up to `high` do not
    while high - low > 1 and time.monotonic() < until:
        middle = (low + high) // 2
        low, high = (low, middle) if _differs(lower, _part(whole, nodes[middle], fixed)) else (middle, high)
    if high == len(nodes):
        return ""
    (name,) = named_operators(nodes[high : high + 1], stage)
    return name if high - low == 1 else f"{name}, or one before it,"


def _differs(lower: Callable[[TorchStage], Lowered], part: TorchStage) -> bool:
    try:
        lower(part)
    except DisagreementError:
        return True
    except EdgefuseError:  # what cannot be lowered by itself tells nothing: the whole could be
        return False
    return False


def _is_a_value(node: fx.Node) -> bool:
    """Tell whether a node gives what a stage may give."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return False
    return value.dim() > 0 and value.shape[0] == 1


def _part(whole: fx.GraphModule, last: fx.Node, stage: TorchStage) -> TorchStage:
    """Return the part of a stage that computes one value."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(whole.graph, copies)
    graph.output(copies[last])
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    tensor = TensorSpec(name="value", dtype="float32", shape=tuple(int(size) for size in last.meta["val"].shape))
    spec = msgspec.structs.replace(stage.spec, outputs=(StageOutput(tensor=tensor),))
    module: nn.Module = fx.GraphModule(whole, graph)
    return replace(stage, spec=spec, module=module, alike="")


def _fixed(spec: StageSpec, shapes: Mapping[str, Sequence[int]]) -> StageSpec:
    """Return a wiring whose inputs have one shape."""
    inputs = tuple(
        msgspec.structs.replace(
            port, tensor=msgspec.structs.replace(port.tensor, shape=tuple(map(int, shapes[port.tensor.name])))
        )
        for port in spec.inputs
    )
    return msgspec.structs.replace(spec, inputs=inputs)
