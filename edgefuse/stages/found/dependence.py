"""The modalities that each node of a traced model depends on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import SymInt, nn
from torch.fx import Node

from edgefuse.stages.found import costs
from edgefuse.stages.found.traced import Call, Traced

Label = frozenset[str]
"""Names of modalities; empty for what depends on parameters and sizes alone."""

_LEAST_SHARE = 0.01
"""Of the multiply-accumulates: what some of three modalities share is a stage of its own from here on."""


@dataclass(frozen=True)
class Labelled:
    """A traced model, each node with the modalities that it depends on.

    Attributes:
        traced: the model.
        everything: the label of what depends on all modalities, or on the mask.
        labels: by node.
    """

    traced: Traced
    everything: Label
    labels: dict[Node, Label]

    @cached_property
    def macs(self) -> dict[Node, int]:
        """The multiply-accumulates of every node."""
        return {node: costs.macs(node) for node in self.labels}

    @cached_property
    def total(self) -> int:
        """The multiply-accumulates of the model."""
        return sum(self.macs.values())

    @cached_property
    def inside(self) -> dict[Call, set[Label]]:
        """The labels of the nodes in each call of a submodule, constants left out."""
        found: dict[Call, set[Label]] = {}
        for node, label in self.labels.items():
            if label and node.op != "placeholder":
                for call in self.traced.calls_around(node):
                    found.setdefault(call, set()).add(label)
        return found

    def computed(self, label: Label) -> list[Node]:
        """Return the nodes of a label that are computed, in order."""
        return [node for node, own in self.labels.items() if own == label and node.op != "placeholder"]


def labelled(traced: Traced) -> Labelled:
    """Say of each node which modalities it depends on; small work on some of three or more counts as on all."""
    names = {value.source.owner for value in traced.taken.values() if value.source.kind == "modality"}
    everything = frozenset(names)
    labels: dict[Node, Label] = {}
    _propagate(traced, everything, labels, frozenset())
    first = Labelled(traced, everything, labels)
    partial = {label for label in labels.values() if 1 < len(label) < len(everything)}
    work = {label: sum(first.macs[node] for node in first.computed(label)) for label in partial}
    small = frozenset(label for label in partial if work[label] < _LEAST_SHARE * first.total)
    if not small:
        return first
    merged: dict[Node, Label] = {}
    _propagate(traced, everything, merged, small)
    return Labelled(traced, everything, merged)


def without_mask(model: Labelled) -> Labelled:
    """Return the model labelled as if `present` were a constant."""
    labels: dict[Node, Label] = {}
    _propagate(model.traced, model.everything, labels, frozenset(), mask=frozenset())
    return Labelled(model.traced, model.everything, labels)


def _propagate(
    traced: Traced,
    everything: Label,
    labels: dict[Node, Label],
    small: frozenset[Label],
    mask: Label | None = None,
) -> None:
    """Label the nodes of a graph.

    Args:
        traced: the model.
        everything: all modalities.
        labels: that are written, by node.
        small: labels that count as all modalities.
        mask: what `present` depends on; all modalities by default.
    """
    for node in traced.graph.nodes:
        if node.op == "output":
            continue
        label: Label
        if node.op == "placeholder":
            value = traced.taken.get(node)
            if value is None:
                label = frozenset()
            else:
                of_mask = everything if mask is None else mask
                label = of_mask if value.source.kind == "present" else frozenset({value.source.owner})
        elif is_size(node):
            label = frozenset()
        else:
            label = frozenset().union(*(labels[one] for one in node.all_input_nodes))
        labels[node] = everything if label in small else label


def is_size(node: Node) -> bool:
    """Tell whether a node is a size of a tensor: it depends on shapes, not on values."""
    return _is_named(node, "sym_size")


def is_number(node: Node) -> bool:
    """Tell whether a node gives a number instead of a tensor."""
    return isinstance(costs.value_of(node), SymInt | int | float)


def _is_named(node: Node, name: str) -> bool:
    return getattr(getattr(node.target, "overloadpacket", None), "__name__", "") == name


def without_parameters(labelled: Labelled) -> set[Node]:
    """Return the nodes that no parameter goes into."""
    found: set[Node] = set()
    for node in labelled.labels:
        if node.op == "placeholder":
            if not isinstance(labelled.traced.state.get(node), nn.Parameter):
                found.add(node)
        elif all(one in found for one in node.all_input_nodes):
            found.add(node)
    return found
