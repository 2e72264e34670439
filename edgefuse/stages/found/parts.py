"""Which nodes of a traced model are whose, and what crosses between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor
from torch.fx import Node

from edgefuse.bundle.spec import ModelSpec, Role
from edgefuse.stages.found import costs
from edgefuse.stages.found.cut import Group, atoms, batch_sizes, crosses_as, far_side, inside_of_mixed
from edgefuse.stages.found.dependence import Label, Labelled, is_number, without_parameters
from edgefuse.stages.found.traced import Call

_WORK = 1_000
"""Multiply-accumulates that make what comes before the first parameter a stage."""


class Unsplittable(Exception):  # noqa: N818 - it ends no compile: the model stays one stage, with this as the reason
    """Why a model stays one stage."""


@dataclass
class Part:
    """What becomes a stage.

    Attributes:
        name: of the stage.
        role: of the stage.
        modality: that it belongs to; empty if it reads several.
        nodes: that it computes.
        inputs: nodes that it takes: of the model's inputs, or of other parts.
        outputs: nodes that other parts take.
        results: outputs of the model, by name.
    """

    name: str
    role: Role
    modality: str = ""
    nodes: set[Node] = field(default_factory=set)
    inputs: list[Node] = field(default_factory=list)
    outputs: list[Node] = field(default_factory=list)
    results: dict[str, Node] = field(default_factory=dict)


def parts_of(labelled: Labelled, spec: ModelSpec) -> list[Part]:
    """Divide a model into parts, in an order in which they can run.

    Raises:
        Unsplittable: if it cannot be divided, with the reason.
    """
    order = {modality.name: number for number, modality in enumerate(spec.modalities)}
    labels = sorted(
        {label for label in labelled.labels.values() if label},
        key=lambda label: (len(label), sorted(order[name] for name in label)),
    )
    results: dict[Label, dict[str, Node]] = {}
    for name, node in labelled.traced.results.items():
        label = labelled.labels[node]
        if not label:
            raise Unsplittable(f"the output '{name}' depends on no input")
        results.setdefault(label, {})[name] = node
    homes = _Homes(labelled, labels)
    wanted: dict[Label, dict[Node, None]] = {label: {} for label in labels}
    parts: list[Part] = []
    for label in reversed(labels):
        part = _part(label, spec, labelled)
        part.results = results.get(label, {})
        part.outputs = list(wanted[label])
        homes.fill(part, label, [*part.results.values(), *part.outputs])
        for node in part.inputs:
            if node.op != "placeholder":
                wanted[labelled.labels[node]][node] = None
        if part.results or part.outputs:
            parts += reversed(_with_frontend(part, labelled, label))
    parts.reverse()
    rank = {node: number for number, node in enumerate(labelled.labels)}
    for part in parts:
        part.outputs.sort(key=rank.__getitem__)
    return parts


def _part(label: Label, spec: ModelSpec, labelled: Labelled) -> Part:
    if len(label) == 1 < len(spec.modalities):
        (name,) = label
        return Part(f"{name}_encoder", "encoder", name)
    if label == labelled.everything:
        return Part("fusion", "fusion")
    names = [modality.name for modality in spec.modalities if modality.name in label]
    return Part(f"{'_'.join(names)}_fusion", "fusion")


class _Homes:
    """Where each node is computed: in the stage of its label, or beyond the cut, in whatever needs it."""

    def __init__(self, labelled: Labelled, labels: list[Label]) -> None:
        self._labelled = labelled
        self._moved: dict[Label, set[Node]] = {label: set() for label in labels}
        self._batch = batch_sizes(labelled)
        for label in reversed(labels):
            nodes = labelled.computed(label)
            if nodes and label != labelled.everything:
                group = Group(
                    nodes, self._ends(label), (), atoms(labelled, label, nodes), inside_of_mixed(labelled, nodes)
                )
                self._moved[label] = far_side(labelled, group) if group.ends else set()

    def _ends(self, label: Label) -> list[Node]:
        """Return the nodes of larger sets of modalities that read nodes of this one."""
        return [
            node
            for node, own in self._labelled.labels.items()
            if own > label and any(self._labelled.labels[one] == label for one in node.all_input_nodes)
        ]

    def fill(self, part: Part, label: Label, ends: Iterable[Node]) -> None:
        """Give a part all nodes that its outputs need, and its inputs."""

        def is_elsewhere(node: Node) -> bool:
            own = self._labelled.labels[node]
            if not own or own == label or node in self._moved[own]:
                return False
            self._check(node)
            return True

        _gather(part, self._labelled, ends, is_elsewhere)

    def _check(self, node: Node) -> None:
        value = costs.value_of(node)
        if crosses_as(value, self._batch) is None:
            shape = list(map(costs.size_hint, value.shape)) if isinstance(value, Tensor) else type(value).__name__
            raise Unsplittable(f"the value '{node.name}' {shape} does not count samples and would have to cross")


def _with_frontend(part: Part, labelled: Labelled, label: Label) -> list[Part]:
    """Return a frontend and the rest of an encoder, or the encoder as it is if it has no such work."""
    if part.role != "encoder":
        return [part]
    free = without_parameters(labelled)
    before = [node for node in labelled.labels if node in part.nodes and node in free and labelled.labels[node]]
    work = [node for node in before if _is_work(node, labelled)]
    ends = [
        node
        for node in labelled.labels
        if node in part.nodes and node not in free and any(one in free for one in _read(node, labelled))
    ]
    if not work or not ends or any(node in free for node in part.results.values()):
        return [part]
    inside = _calls_without_parameters(labelled, part, free)
    around = {node: labelled.traced.calls_around(node) for node in before}
    pure = {node: next((call for call in calls if inside[call]), None) for node, calls in around.items()}
    calls = {node: call for node, call in pure.items() if call is not None}
    inner = {node for node in before if not all(map(inside.__getitem__, around[node]))}
    moved = far_side(labelled, Group(before, ends, work, calls, inner))
    return _parted(part, labelled, set(before) - moved, label)


def _calls_without_parameters(labelled: Labelled, part: Part, free: set[Node]) -> dict[Call, bool]:
    """Say of each call of a submodule in a part whether none of its nodes needs a parameter."""
    inside: dict[Call, bool] = {}
    for node in part.nodes:
        if labelled.labels[node]:
            for call in labelled.traced.calls_around(node):
                inside[call] = inside.get(call, True) and node in free
    return inside


def _parted(part: Part, labelled: Labelled, near: set[Node], label: Label) -> list[Part]:
    """Divide an encoder: the frontend computes the near nodes that the rest reads."""
    rest = Part(part.name, part.role, part.modality, outputs=part.outputs, results=part.results)
    _gather(rest, labelled, [*part.results.values(), *part.outputs], near.__contains__)
    handed = [node for node in rest.inputs if node in near]
    batch = batch_sizes(labelled)
    if not handed or any(crosses_as(costs.value_of(node), batch) is None for node in handed):
        return [part]
    frontend = Part(f"{part.modality}_frontend", "frontend", part.modality, outputs=handed)
    _gather(frontend, labelled, handed, lambda _: False)
    return [frontend, rest]


def _gather(part: Part, labelled: Labelled, ends: Iterable[Node], is_elsewhere: Callable[[Node], bool]) -> None:
    """Give a part all nodes that its ends need, and its inputs: those of the model, and what is computed elsewhere."""
    inputs: set[Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node in part.nodes or node in inputs:
            continue
        if (node.op == "placeholder" and labelled.labels[node]) or is_elsewhere(node):
            inputs.add(node)
        else:
            part.nodes.add(node)
            waiting += node.all_input_nodes if labelled.labels[node] or not is_number(node) else ()
    part.inputs = [node for node in labelled.labels if node in inputs]


def _is_work(node: Node, labelled: Labelled) -> bool:
    """Tell whether a node is signal processing, or turns the bytes of a picture into numbers."""
    if labelled.macs[node] >= _WORK or costs.is_spectrum(node):
        return True
    value = costs.value_of(node)
    source = node.all_input_nodes[0] if node.all_input_nodes else None
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and source is not None
        and isinstance(costs.value_of(source), Tensor)
        and str(costs.value_of(source).dtype) == "torch.uint8"
    )


def _read(node: Node, labelled: Labelled) -> list[Node]:
    """Return what a node reads, constants left out."""
    return [one for one in node.all_input_nodes if labelled.labels[one]]
