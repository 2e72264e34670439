"""Where the fewest bytes cross: a minimum cut through the nodes of one set of modalities.

A node may be computed on both sides: what is cheap is computed again instead of handed over. The cut pays for each
tensor that crosses, and for each product that fusion computes again or instead of an encoder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import torch
from torch import Tensor
from torch.fx import Node

from edgefuse.stages.found import costs
from edgefuse.stages.found.dependence import Label, Labelled
from edgefuse.stages.found.traced import Call

_PER_TENSOR = 64
"""Bytes that one more tensor is worth."""

_MACS_PER_BYTE = 64
_SHARE_PER_CROSSING = 4
"""A quarter of all multiply-accumulates may move if nothing else has to cross then."""

_LARGE_SHARE = 0.5
"""Of a group's multiply-accumulates: what does more of an encoder's work is the encoder."""

_SMALL_SHARE = 0.02
"""A projection of less than this is left to the module that it stands in."""

_FLOATS = (torch.float32, torch.bool, torch.int32, torch.int64, torch.uint8)


@dataclass(frozen=True)
class Group:
    """Nodes that are to be cut.

    Attributes:
        nodes: that may be computed on either side.
        ends: nodes that need some of them, and are on the far side.
        fixed: nodes that are on the near side.
        atoms: the call of a submodule that a node is not to be parted from.
        inner: nodes that stand inside a submodule of the far side, where they had better stay.
    """

    nodes: Collection[Node]
    ends: Collection[Node]
    fixed: Collection[Node]
    atoms: Mapping[Node, Call]
    inner: Collection[Node]


def crosses_as(value: object, batch: Any) -> int | None:
    """Return the axis of a tensor that counts samples, if it may cross between stages.

    Args:
        value: the fake value of a node.
        batch: sizes, as text, that the batch may have.
    """
    if not isinstance(value, Tensor) or value.dtype not in _FLOATS or value.dim() == 0:
        return None
    if any(map(costs.is_data_dependent, value.shape)):
        return None
    axes = [axis for axis, size in enumerate(value.shape) if str(size) in batch]
    if batch == {"1"} and axes[:1] == [0]:
        return 0
    return axes[0] if len(axes) == 1 else None


def batch_sizes(labelled: Labelled) -> set[str]:
    """Return how the size of the batch is spelled in the shapes of a graph."""
    return {str(costs.value_of(node).shape[0]) for node in labelled.traced.taken if node.users}


def far_side(labelled: Labelled, group: Group) -> set[Node]:
    """Return the nodes of a group that the far side computes itself.

    Raw inputs cross only if nothing else can, or nothing would be left to do. Where no cut goes around whole
    submodules, it goes through them.
    """
    works = {node for node in group.nodes if labelled.macs[node] or costs.is_lookup(node)}
    loose = replace(group, atoms={})
    for one, raw in ((group, not works), (loose, not works), (loose, True)):
        try:
            far = _cut(labelled, one, raw=raw)
        except nx.NetworkXUnbounded:
            continue
        return _not_idle(labelled, one, far, works) if not raw and works <= far else far
    return set(group.nodes) - set(group.fixed)


def _not_idle(labelled: Labelled, group: Group, far: set[Node], works: set[Node]) -> set[Node]:
    """Return another far side where the near one does nothing but move what it is given: what is large stays there.

    Where nothing of the group is large, its inputs cross as they are, and all is done on the far side.
    """
    try:
        other = _cut(labelled, group, raw=False, large=_LARGE_SHARE / 2)
    except nx.NetworkXUnbounded:
        other = far
    return other if not works <= other else set(group.nodes) - set(group.fixed)


def _cut(labelled: Labelled, group: Group, *, raw: bool, large: float = _LARGE_SHARE) -> set[Node]:
    network = _Network(labelled, group, raw=raw, large=large)
    _, (near, _) = nx.minimum_cut(network.graph, "near", "far")
    return {node for node in group.nodes if network.place(node) not in near}


class _Network:
    """The flow network of a group: what is on the side of `near` is computed there."""

    def __init__(self, labelled: Labelled, group: Group, *, raw: bool, large: float) -> None:
        self.graph = nx.DiGraph()
        self._labelled = labelled
        self._group = group
        self._raw = raw
        self._large = large
        self._batch = batch_sizes(labelled)
        self._members = set(group.nodes)
        self.graph.add_edge("near", "start")
        self.graph.add_node("far")
        self._add_wires()
        self._add_costs()
        for node in group.fixed:
            self.graph.add_edge("near", self.place(node))

    def place(self, node: Node) -> object:
        """Return what decides for a node: its submodule's call, or the node by itself."""
        return self._group.atoms.get(node, node)

    def _add_wires(self) -> None:
        for node in [*self._group.nodes, *self._group.ends]:
            to = self.place(node) if node in self._members else "far"
            for source in node.all_input_nodes:
                if not self._labelled.labels[source]:
                    continue
                if source in self._members:
                    if self.place(source) == to:
                        continue
                    self._hand_over(source, self.place(source))
                elif to != "far":
                    self._hand_over(source, "start")
                else:
                    continue
                self.graph.add_edge(("value", source), to)

    def _hand_over(self, source: Node, at: object) -> None:
        value = costs.value_of(source)
        is_input = source.op == "placeholder"
        if (is_input and not self._raw) or (not is_input and crosses_as(value, self._batch) is None):
            self.graph.add_edge(at, ("value", source))
        else:
            self.graph.add_edge(at, ("value", source), capacity=crossing_bytes(value) + _PER_TENSOR)

    def _add_costs(self) -> None:
        crossing = self._bytes_of_ends()
        whole = sum(self._labelled.macs[node] for node in self._group.nodes)
        inner = set(self._group.inner)
        places: dict[object, list[Node]] = {}
        for node in self._group.nodes:
            places.setdefault(self.place(node), []).append(node)
        for place, nodes in places.items():
            macs = sum(self._labelled.macs[node] for node in nodes)
            if macs > self._large * whole and not self._raw:
                self.graph.add_edge("near", place)
                continue
            share = macs / max(1, self._labelled.total)
            again = 1 + int(min(macs / _MACS_PER_BYTE, _SHARE_PER_CROSSING * crossing * share))
            again += sum(costs.elements(costs.value_of(node)) * 4 for node in nodes if costs.is_lookup(node))
            self.graph.add_edge("near", place, capacity=again)
            if share < _SMALL_SHARE and nodes[0] in inner:
                self.graph.add_edge(place, "far", capacity=2 + crossing_bytes(costs.value_of(nodes[-1])) // 16)

    def _bytes_of_ends(self) -> int:
        handed = {one for node in self._group.ends for one in node.all_input_nodes if one in self._members}
        return sum(crossing_bytes(costs.value_of(node)) for node in handed)


def crossing_bytes(value: object) -> int:
    """Return the bytes that a tensor has between stages, where all are float32."""
    return 4 * costs.elements(value)


def atoms(labelled: Labelled, label: Label, nodes: Iterable[Node]) -> dict[Node, Call]:
    """Return the outermost call of a submodule that each node belongs to, of those that see one label alone.

    Args:
        labelled: the model.
        label: of the nodes.
        nodes: in question.
    """
    found: dict[Node, Call] = {}
    for node in nodes:
        for call in labelled.traced.calls_around(node):
            if labelled.inside.get(call) == {label}:
                found[node] = call
                break
    return found


def inside_of_mixed(labelled: Labelled, nodes: Iterable[Node]) -> set[Node]:
    """Return the nodes that stand inside a submodule which sees other modalities than theirs, too."""
    return {
        node
        for node in nodes
        if any(
            other - labelled.labels[node]
            for call in labelled.traced.calls_around(node)
            for other in labelled.inside.get(call, ())
        )
    }
