"""Put what a function of torch does in place of a node of a traced stage."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, TensorArgument
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

_KEPT = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn")
_COPIES = frozenset(
    getattr(torch.ops.aten, name).default for name in ("lift_fresh_copy", "detach", "detach_", "alias", "clone")
)


@dataclass(frozen=True)
class Form:
    """What takes the place of a node.

    Attributes:
        function: takes the values of `inputs` and then `constants`, and returns one tensor or several.
        inputs: nodes.
        constants: tensors that the finished file holds.
    """

    function: Callable[..., Any]
    inputs: tuple[Node, ...]
    constants: tuple[Tensor, ...] = ()


Prepare: TypeAlias = Callable[[ExportedProgram, Any], Form | None]
"""Takes a traced stage and a node of it; returns None where the node is well as it is."""


def inline(program: ExportedProgram, node: Any, form: Form) -> tuple[Node, ...]:
    """Add what a form computes before a node and return the nodes of its results; the node itself stays.

    Args:
        program: the traced stage, changed in place.
        node: before which the operators stand; they are said to come from its module and line.
        form: what to add.
    """
    values = [source.meta["val"] for source in form.inputs]
    mode = detect_fake_mode(values) or detect_fake_mode([n.meta.get("val") for n in program.graph.nodes])
    if mode is None:
        raise ValueError("a traced stage without values")
    with mode:
        fakes = [mode.from_tensor(constant, static_shapes=True) for constant in form.constants]
        added = make_fx(form.function, pre_dispatch=True)(*values, *fakes).graph
    constants = [_add_constant(program, c, fake) for c, fake in zip(form.constants, fakes, strict=True)]
    sources = iter([*form.inputs, *constants])
    known: dict[Node, Node] = {}
    with program.graph.inserting_before(node):
        for inner in added.nodes:
            if inner.op == "placeholder":
                known[inner] = next(sources)
            elif inner.op == "output":
                results = inner.args[0]
            else:
                copy = program.graph.node_copy(inner, known.__getitem__)
                kept = {key: node.meta[key] for key in _KEPT if key in node.meta}
                copy.meta = {**kept, "val": inner.meta["val"]}
                known[inner] = copy
    return tuple(known[one] for one in (results if isinstance(results, (tuple, list)) else (results,)))


def replace(program: ExportedProgram, node: Any, result: Node) -> None:
    """Let all that uses a node use a result, and drop the node.

    Args:
        program: that both are in.
        node: to drop.
        result: in its place.
    """
    node.replace_all_uses_with(result)
    program.graph_signature.replace_all_uses(node.name, result.name)
    program.graph.erase_node(node)


def replace_first(program: ExportedProgram, node: Any, result: Node) -> None:
    """Let all that uses the first of a node's several results use another one; nothing may use the others.

    Args:
        program: that both are in.
        node: with several results.
        result: in place of the first.
    """
    for user in list(node.users):
        if user.args[1:] == (0,):
            replace(program, user, result)
        else:
            program.graph.erase_node(user)
    program.graph.erase_node(node)


def only_first_is_used(node: Any) -> bool:
    """Tell whether nothing uses any result of a node but the first of several."""
    return all(user.target is operator.getitem and (user.args[1] == 0 or not user.users) for user in node.users)


def argument(node: Any, position: int, default: Any = None) -> Any:
    """Return a positional argument of a node, or what it is where the node has none.

    Args:
        node: that is called with it.
        position: of the argument.
        default: where there are fewer.
    """
    return node.args[position] if len(node.args) > position else default


def shape_of(node: Any) -> tuple[Any, ...]:
    """Return the shape of what a node gives; open sizes are symbols."""
    return tuple(node.meta["val"].shape)


def constant_of(program: ExportedProgram, node: Any) -> Tensor | None:
    """Return the parameter, buffer or constant that a node stands for, or None."""
    signature = program.graph_signature
    while isinstance(node, Node) and node.target in _COPIES:
        node = node.args[0]
    if not isinstance(node, Node) or node.op != "placeholder":
        return None
    name = (
        signature.inputs_to_parameters.get(node.name)
        or signature.inputs_to_buffers.get(node.name)
        or signature.inputs_to_lifted_tensor_constants.get(node.name)
    )
    if name is None:
        return None
    value = program.state_dict.get(name, program.constants.get(name))
    return value.detach() if isinstance(value, Tensor) else None


def _add_constant(program: ExportedProgram, value: Tensor, fake: Tensor) -> Node:
    """Hold a tensor in a program, as an input of its graph that is not the user's."""
    graph, signature = program.graph, program.graph_signature
    count = sum(spec.arg.name.startswith("form_") for spec in signature.input_specs if not _is_plain(spec))
    name = f"form_{count}"
    users = [i for i, spec in enumerate(signature.input_specs) if spec.kind is InputKind.USER_INPUT]
    position = users[0] if users else len(signature.input_specs)
    placeholders: Sequence[Node] = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_before(placeholders[position]):
        node: Node = graph.placeholder(name)
    node.meta["val"] = fake
    spec = InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(name=node.name), name)
    signature.input_specs.insert(position, spec)
    program.constants[name] = value.contiguous()
    return node


def _is_plain(spec: InputSpec) -> bool:
    return isinstance(spec.arg, ConstantArgument)


def is_float(node: Any) -> bool:
    """Tell whether a node gives floats."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()
