"""The user's own lines behind the operators of a stage that was cut out of a model's graph.

Torch writes the code of such a stage, and says nothing of it when it is traced. Its operators are those of the model's
graph, in their order, and of these it is known what the user wrote.
"""

from __future__ import annotations

from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node

from edgefuse.stages.stage import TorchStage


def operators_of(graph: Graph) -> list[Node]:
    """Return the nodes of a graph that are operators of torch, in order: copies of the graph have the same."""
    return [node for node in graph.nodes if isinstance(node.target, OpOverload)]


def tell_lines(graph: Graph, stage: TorchStage) -> None:
    """Note on the operators of a traced stage which lines asked for them, in place, where torch does not know.

    Args:
        graph: the trace.
        stage: that was traced.
    """
    if not stage.lines or not isinstance(stage.module, GraphModule):
        return
    known = list(zip(operators_of(stage.module.graph), stage.lines, strict=True))
    place = 0
    for node in operators_of(graph):
        if node.meta.get("stack_trace"):  # it stands in a submodule of the user's
            continue
        found = next((i for i in range(place, len(known)) if known[i][0].target is node.target), None)
        if found is not None:
            node.meta["stack_trace"], place = known[found][1], found + 1
