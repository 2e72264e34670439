"""A part of a traced model as a module: whole submodules as they are, the rest as operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import SymInt, Tensor, nn
from torch.export.graph_signature import ConstantArgument, SymIntArgument, TensorArgument
from torch.fx import Graph, GraphModule, Node

from edgefuse.stages.found import costs
from edgefuse.stages.found.cut import batch_sizes, crosses_as
from edgefuse.stages.found.dependence import Labelled, is_number
from edgefuse.stages.found.parts import Part, Unsplittable
from edgefuse.stages.found.traced import Call, Traced
from edgefuse.stages.lines import operators_of
from edgefuse.stages.typed import cast


@dataclass(frozen=True)
class Lowered:
    """A part as a module that takes its inputs in order and returns its results, then what others take.

    Attributes:
        part: what was lowered.
        module: in eval mode.
        kept: names of the submodules that stay modules.
        lines: see `TorchStage`.
    """

    part: Part
    module: nn.Module
    kept: tuple[str, ...]
    lines: tuple[str, ...] = ()


def wholes(
    part: Part, others: Iterable[Part], labelled: Labelled, is_callable: Callable[[Call, Sequence[Node]], bool]
) -> dict[Call, list[Node]]:
    """Return the outermost calls of submodules whose nodes are all of one part and of no other, by their nodes.

    Args:
        part: that may have them.
        others: all parts.
        labelled: the model.
        is_callable: says of a call and its nodes whether it can be written as one.
    """
    traced = labelled.traced
    elsewhere: set[Node] = set().union(*(other.nodes for other in others if other is not part))
    members: dict[Call, list[Node]] = {}
    split: set[Call] = set()
    for node, label in labelled.labels.items():
        if node.op == "placeholder" or not label:
            continue
        for call in traced.calls_around(node):
            members.setdefault(call, []).append(node)
            if node not in part.nodes or node in elsewhere:
                split.add(call)
    found: dict[Call, list[Node]] = {}
    for call in sorted(members, key=len):
        around = any(call[: len(other)] == other for other in found)
        if (
            call not in split
            and not around
            and _module_of(call, traced) is not None
            and is_callable(call, members[call])
        ):
            found[call] = members[call]
    return found


def name_of(call: Call) -> str:
    """Return the name of a called submodule within the traced module."""
    return call[-1].split("@")[0]


def _module_of(call: Call, traced: Traced) -> nn.Module | None:
    try:
        return traced.module.get_submodule(name_of(call))
    except AttributeError:
        return None


def lower(part: Part, parts: Sequence[Part], labelled: Labelled) -> Lowered:
    """Return a part as a module.

    Args:
        part: to lower.
        parts: all of them.
        labelled: the model that they are of.

    Raises:
        Unsplittable: if a size is needed that no input of the part has.
    """
    writer = _Writer(part, parts, labelled)
    writer.write()
    plain = writer.alone()
    kept = tuple(dict.fromkeys(writer.kept))
    if plain is not None:
        return Lowered(part, plain.eval(), kept)
    return Lowered(part, GraphModule(writer.root, writer.graph).eval(), kept, writer.lines())


class _Writer:
    """Writes the graph of a part."""

    def __init__(self, part: Part, parts: Sequence[Part], labelled: Labelled) -> None:
        self.graph = Graph()
        self.root: dict[str, Any] = {}
        self.kept: list[str] = []
        self._part = part
        self._labelled = labelled
        self._traced = labelled.traced
        self._batch = batch_sizes(labelled)
        self._by_name = {node.name: node for node in labelled.labels}
        self._wholes = wholes(part, parts, labelled, self._is_callable)
        self._call_of = {node: call for call, nodes in self._wholes.items() for node in nodes}
        self._env: dict[Node, Any] = {}
        self._sizes: dict[str, Node] = {}
        self._asked: dict[Node, str] = {}

    def write(self) -> None:
        """Write inputs, nodes in their order, and outputs."""
        for number, node in enumerate(self._part.inputs):
            self._take(number, node)
        for node in self._labelled.labels:
            if node in self._part.nodes and node not in self._env:
                self._compute(node)
        results = [self._env[node] for node in self._part.results.values()]
        values = results + [self._hand_over(node) for node in self._part.outputs]
        self.graph.output(values[0] if len(values) == 1 else tuple(values))
        self.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))

    def lines(self) -> tuple[str, ...]:
        """Return what asked for each operator of the graph, as torch writes it on nodes."""
        return tuple(self._asked.get(node, "") for node in operators_of(self.graph))

    def alone(self) -> nn.Module | None:
        """Return the one submodule that the part is, if it takes the part's inputs in order and does no more."""
        nodes = [node for node in self.graph.nodes if node.op not in ("placeholder", "output")]
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        if len(nodes) != 1 or nodes[0].op != "call_module" or nodes[0].kwargs or list(nodes[0].args) != inputs:
            return None
        module: nn.Module = self.root[str(nodes[0].target)]
        return module

    def _take(self, number: int, node: Node) -> None:
        given = self.graph.placeholder(f"input_{number}")
        value = costs.value_of(node)
        taken = self._traced.taken.get(node)
        axis = 0 if taken is not None else crosses_as(value, self._batch)
        shape = list(value.shape)
        shape.insert(0, shape.pop(axis or 0))
        for place, size in enumerate(shape):
            if isinstance(size, SymInt):
                read = self.graph.call_function(torch.ops.aten.sym_size.int, (given, place))
                names = self._batch if str(size) in self._batch else {str(size)}  # all inputs have one batch
                self._sizes = dict.fromkeys(names, read) | self._sizes
        made = given
        if axis:
            made = self.graph.call_function(torch.ops.aten.movedim.int, (made, 0, axis))
        if taken is None and value.dtype != torch.float32:
            made = self.graph.call_function(cast, (made, value.dtype))
        self._env[node] = made

    def _hand_over(self, node: Node) -> Node:
        value, made = costs.value_of(node), self._env[node]
        if value.dtype != torch.float32:
            made = self.graph.call_function(cast, (made, torch.float32))
        if axis := crosses_as(value, self._batch):
            made = self.graph.call_function(torch.ops.aten.movedim.int, (made, axis, 0))
        return made  # type: ignore[no-any-return] # nodes stand for tensors

    def _compute(self, node: Node) -> None:
        if node in self._call_of:
            self._call(self._call_of[node])
        elif node.op == "placeholder":
            self._env[node] = self._attribute(node)
        elif node.op == "get_attr":
            self.root[str(node.target)] = getattr(self._traced.constants, str(node.target))
            self._env[node] = self.graph.get_attr(str(node.target))
        elif not (is_number(node) and not self._labelled.labels[node]):
            args, kwargs = pytree.tree_map_only(Node, self._value, (node.args, dict(node.kwargs)))
            made = self.graph.call_function(node.target, tuple(args), kwargs)  # type: ignore[arg-type] # a function
            self._asked[made] = node.meta.get("stack_trace") or ""
            self._env[node] = made

    def _attribute(self, node: Node) -> Node:
        name = self._traced.names[node].removeprefix("module.")
        self.root[name] = self._traced.state[node]
        return self.graph.get_attr(name)

    def _call(self, call: Call) -> None:
        """Write the call of a submodule, and give its outputs to the nodes that they are."""
        signature = self._traced.calls[call[-1]]
        leaves = [self._argument(argument) for argument in signature.inputs]
        args, kwargs = pytree.tree_unflatten(leaves, signature.in_spec)
        name = name_of(call).removeprefix("module.")
        self.root[name] = _module_of(call, self._traced)
        self.kept.append(name)
        made = self.graph.call_module(name, tuple(args), dict(kwargs))
        for node in self._wholes[call]:
            self._env.setdefault(node, None)
        for number, argument in enumerate(signature.outputs):
            if isinstance(argument, TensorArgument) and argument.name in self._by_name:  # else nobody reads it
                only = signature.out_spec.is_leaf()
                value = made if only else self.graph.call_function(leaf, (made, number))
                self._env[self._by_name[argument.name]] = value

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, TensorArgument | SymIntArgument):
            if isinstance(argument.name, str):
                return self._value(self._by_name[argument.name])
            return argument.name  # a size that is a number
        return argument.value

    def _value(self, node: Node) -> Any:
        """Return what stands for a node in this graph."""
        if (made := self._env.get(node)) is not None:
            return made
        if is_number(node) and not self._labelled.labels[node]:
            return self._size(node)
        self._compute(node)
        return self._env[node]

    def _size(self, node: Node) -> Any:
        """Return a size: of an input that has it, or computed from such."""
        value = costs.value_of(node)
        if not isinstance(value, SymInt):
            return value
        if (known := self._sizes.get(str(value))) is not None:
            return known
        arithmetic = node.op == "call_function" and not isinstance(node.target, torch._ops.OpOverload)
        if not arithmetic and self._env.get(next(iter(node.all_input_nodes), node)) is None:
            raise Unsplittable(f"the stage '{self._part.name}' needs a size that none of its inputs has")
        args = pytree.tree_map_only(Node, self._value, node.args)
        made = self.graph.call_function(node.target, tuple(args))  # type: ignore[arg-type] # a function
        self._sizes[str(value)] = made
        return made

    def _is_callable(self, call: Call, nodes: Sequence[Node]) -> bool:
        """Tell whether a submodule can be called with what is known: its arguments, and all outputs that are read."""
        signature = self._traced.calls.get(call[-1])
        if signature is None:
            return False
        inside = set(nodes)
        known = [one for one in signature.inputs if isinstance(one, TensorArgument | SymIntArgument | ConstantArgument)]
        if len(known) < len(signature.inputs) or not _is_plain(signature.in_spec):
            return False
        needed = [self._by_name.get(one.name) for one in known if isinstance(one, TensorArgument)]
        returned = {one.name for one in signature.outputs if isinstance(one, TensorArgument)}
        read = {node for node in inside if any(user not in inside for user in node.users)}
        return None not in needed and all(node.name in returned for node in read if not is_number(node))


def _is_plain(spec: Any) -> bool:
    """Tell whether arguments are tuples, lists and dicts alone: nothing else is known to a graph."""
    kinds = (None, tuple, list, dict)
    return spec.is_leaf() or (spec.type in kinds and all(map(_is_plain, spec.children())))


def leaf(result: object, number: int) -> Tensor:
    """Return one of the values in what a submodule returned, in the order of torch's `pytree`."""
    value: Tensor = pytree.tree_leaves(result)[number]
    return value
