"""A model as one graph of torch's operators, without what does nothing."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.fx import Graph, Node

from edgefuse.bundle.spec import ModelSpec
from edgefuse.errors import ModelError
from edgefuse.stages.branches import Branch, branches, guards_by_line
from edgefuse.stages.found.calling import Called
from edgefuse.stages.found.costs import value_of
from edgefuse.stages.found.naming import Value, values_of
from edgefuse.stages.openness import kept_open
from edgefuse.stages.recurrent import open_steps
from edgefuse.stages.silence import advice, at, first_words, line_of, quiet, user_line

_BATCH = 2
"""`torch.export` takes a size of 1 for a constant."""

_DOES_NOTHING = ("_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range_for_size")

Call = tuple[str, ...]
"""A call of a submodule within the model: the keys of the modules around it, the innermost last."""


@dataclass(frozen=True)
class Traced:
    """A traced model.

    Attributes:
        graph: of torch's operators; every node has its fake value.
        module: that was traced.
        taken: what each input is.
        state: parameter, buffer or constant by its node.
        names: of these within `module`.
        results: by the name of the output.
        calls: the signature of each call of a submodule that was asked for, by its key.
        unbatched: why the graph is right for one sample alone, in words; empty where it takes any batch.
        constants: graphs that operators of a higher order call, and the like, by name.
        branches: decisions on sizes that fall otherwise at other ones.
        before: nodes that a call is given and that torch wrote within it, by its key.
    """

    graph: Graph
    module: Called
    taken: Mapping[Node, Value]
    state: Mapping[Node, Tensor]
    names: Mapping[Node, str]
    results: Mapping[str, Node]
    calls: Mapping[str, Any]
    unbatched: str
    constants: torch.nn.Module
    branches: tuple[Branch, ...] = ()
    before: Mapping[str, frozenset[Node]] = field(default_factory=dict)

    @property
    def batched(self) -> bool:
        """Whether the first axis of inputs may have any size; else the graph is right for one sample."""
        return not self.unbatched

    def calls_around(self, node: Node) -> tuple[Call, ...]:
        """Return the calls of submodules that a node belongs to, the outermost first, without the model's own."""
        while node.target is operator.getitem:  # one of several results stands where these were computed
            node = node.all_input_nodes[0]
        keys = tuple(_key(key) for key in node.meta.get("nn_module_stack") or {})
        own = [key for key in keys if key.startswith("module.") or key.startswith("module@")]
        own = list(takewhile(lambda key: node not in self.before.get(key, ()), own))
        return tuple(tuple(own[: depth + 1]) for depth in range(len(own)))


def trace(module: Called, spec: ModelSpec, tensors: Sequence[Tensor], kept: Collection[str] = ()) -> Traced:
    """Trace a model with every size dynamic that its spec lets vary, and the batch if the model lets it.

    Args:
        module: the model.
        spec: of it.
        tensors: an input, at batch 1.
        kept: names of submodules whose calls are to be known by their arguments.

    Raises:
        ModelError: if torch cannot trace the model, with the user's own line.
    """
    values = values_of(spec)
    many = [torch.cat([tensor] * _BATCH) for tensor in tensors]
    try:
        with guards_by_line() as lines:
            program = _export(module, many, [_axes(value, batched=True) for value in values], kept)
        _refuse_autocast(program)
        if _batch_sizes(program):
            return _with_branches(_canonical(program, module, values), lines)
        why = "it fixes the batch"
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - torch raises anything; what is wrong at batch 1, too, is raised below
        why = f"in batches torch.export refuses it{at(user_line(error))}: {first_words(error)}"
    try:
        with guards_by_line() as lines:
            program = _export(module, tensors, [_axes(value, batched=False) for value in values], kept)
        _refuse_autocast(program)
        return _with_branches(_canonical(program, module, values, unbatched=why), lines)
    except ModelError:
        raise
    except Exception as error:  # torch.export raises whatever the module's own code raises
        raise ModelError(
            f"torch.export cannot trace the model {type(module.module).__name__}{at(user_line(error))}",
            got=first_words(error),
            fix=advice(error, module),
        ) from error


def _refuse_autocast(program: ExportedProgram) -> None:
    """Refuse a model that computes in half precision by itself: what torch computes so, it hides in one operator.

    Raises:
        ModelError: with the user's line.
    """
    for node in program.graph.nodes:
        if getattr(node.target, "__name__", "") == "wrap_with_autocast":
            held = [
                getattr(program.graph_module, str(one.target)) for one in node.all_input_nodes if one.op == "get_attr"
            ]
            inner = [one for part in held for one in getattr(part, "graph", Graph()).nodes]
            line = next(filter(None, (line_of(one.meta.get("stack_trace")) for one in inner)), "")
            raise ModelError(
                f"the model computes under torch.autocast{at(line)}",
                got=", ".join(str(given) for given in node.args if isinstance(given, torch.dtype)) or None,
                expected="float32: a compile chooses a precision for each stage by itself",
                fix="write `enabled=self.training` into torch.autocast, or leave it out",
            )


def _with_branches(traced: Traced, lines: Mapping[str, str]) -> Traced:
    shapes = ((value_of(node).shape, value.tensor.shape) for node, value in traced.taken.items())
    return replace(traced, branches=branches(shapes, lines))


def _axes(value: Value, *, batched: bool) -> dict[int, Any]:
    free = {axis for axis, dim in enumerate(value.tensor.shape) if not isinstance(dim, int)}
    return dict.fromkeys(sorted(free | ({0} if batched else set())), Dim.AUTO)


def _export(
    module: Called, tensors: Sequence[Tensor], axes: list[dict[int, Any]], kept: Collection[str]
) -> ExportedProgram:
    with quiet(), _without_fast_path(), open_steps(), kept_open(), torch.no_grad():
        return torch.export.export(
            module,
            tuple(tensors),
            dynamic_shapes=(tuple(axes),),
            strict=False,
            preserve_module_call_signature=tuple(kept),
        )


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Keep attention in operators that have translations: the fused ones of transformers have none."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _batch_sizes(program: ExportedProgram) -> bool:
    """Tell whether the batch stayed free: a model that fixes it can be traced at a batch of 1 alone."""
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs and node.users]
    return all(_is_free(value_of(node).shape[0]) for node in inputs)


def _is_free(size: object) -> bool:
    """Tell whether a size was left open: a loop over it fixes it, and its symbol then stands for a number."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _canonical(program: ExportedProgram, module: Called, values: Sequence[Value], unbatched: str = "") -> Traced:
    if any(_changes_in_place(node) for node in program.graph.nodes):
        _name_what_stays(program)
        picks = _name_their_sources(program)
        readers = _name_their_readers(program)
        with quiet(), open_steps():
            program = program.run_decompositions({})
        _name_picked(program, picks)
        _name_read(program, readers)
    graph = program.graph
    for node in list(graph.nodes):
        packet = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        if packet in _DOES_NOTHING:
            graph.erase_node(node)
    outputs = next(iter(reversed(graph.nodes)))
    results = dict(zip(module.outputs, outputs.args[0][-len(module.outputs) :], strict=True))
    outputs.args = (tuple(results.values()),)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    state, names, inputs = _placeholders(program)
    calls = {entry.fqn: entry.signature for entry in program.module_call_graph if entry.signature is not None}
    return Traced(
        graph=graph,
        module=module,
        taken=dict(zip(inputs, values, strict=True)),
        state=state,
        names=names,
        results=results,
        calls=calls,
        unbatched=unbatched,
        constants=program.graph_module,
        before=dict(_before(graph, calls)),
    )


def _before(graph: Graph, calls: Mapping[str, Any]) -> Iterator[tuple[str, frozenset[Node]]]:
    """Yield the key of each call with what it is given, where torch wrote that within it: views that it wrote anew."""
    nodes = {node.name: node for node in graph.nodes}
    for key, signature in calls.items():
        waiting = [nodes[given.name] for given in signature.inputs if getattr(given, "name", None) in nodes]
        found: set[Node] = set()
        while waiting:
            node = waiting.pop()
            if node not in found and key in map(_key, node.meta.get("nn_module_stack") or {}):
                found.add(node)
                waiting += node.all_input_nodes
        if found:
            yield key, frozenset(found)


def _name_what_stays(program: ExportedProgram) -> None:
    """Let the signatures of calls name only nodes that are there without changes in place: torch refuses others.

    Results that nobody reads go, and so do casts to the type that a tensor has, of which torch sees one in a row.
    """
    program.graph.eliminate_dead_code()
    nodes = {node.name: node for node in program.graph.nodes}
    for entry in program.module_call_graph:
        if entry.signature is None:
            continue
        for place, given in enumerate(entry.signature.outputs):
            if isinstance(given, TensorArgument) and given.name not in nodes:
                entry.signature.outputs[place] = ConstantArgument(name="", value=None)
        for given in (*entry.signature.inputs, *entry.signature.outputs):
            if isinstance(given, TensorArgument) and given.name in nodes:
                given.name = _without_casts(nodes[given.name]).name


Picks = list[tuple[int, str, int, int]]
"""Arguments in the signatures of calls that are one of several results: the call, which side, the place, and which."""


def _name_their_sources(program: ExportedProgram) -> Picks:
    """Let signatures name what gives several results in place of one of these, which torch would lose track of."""
    nodes = {node.name: node for node in program.graph.nodes}
    picks: Picks = []
    for call, entry in enumerate(program.module_call_graph):
        for side in ("inputs", "outputs") if entry.signature is not None else ():
            for place, given in enumerate(getattr(entry.signature, side)):
                node = nodes.get(given.name) if isinstance(given, TensorArgument) else None
                if node is not None and node.target is operator.getitem:
                    source, number = node.args
                    given.name = source.name
                    picks.append((call, side, place, number))
    return picks


def _name_picked(program: ExportedProgram, picks: Picks) -> None:
    """Let signatures name the one of several results that they mean, once the graph is written anew."""
    nodes = {node.name: node for node in program.graph.nodes}
    for call, side, place, number in picks:
        named = getattr(program.module_call_graph[call].signature, side)
        source = nodes[named[place].name]
        if source.target is operator.getitem:  # of which torch names the last
            (source,) = source.all_input_nodes
        users = [user for user in source.users if user.target is operator.getitem]
        found = next((user for user in users if user.args[1] == number), None)
        named[place] = ConstantArgument(name="", value=None) if found is None else TensorArgument(name=found.name)


def _name_their_readers(program: ExportedProgram) -> Picks:
    """Let signatures name what reads a view in place of the view, which torch writes anew where its base changes.

    What a call is given is read within it, what it returns may be read behind all changes.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    readers: Picks = []
    for call, entry in enumerate(program.module_call_graph):
        for side in ("inputs", "outputs") if entry.signature is not None else ():
            for place, given in enumerate(getattr(entry.signature, side)):
                node = nodes.get(given.name) if isinstance(given, TensorArgument) else None
                if node is None or not _is_view(node):
                    continue
                found = [user for user in node.users if _keeps(user, node)]
                within = [user for user in found if entry.fqn in map(_key, user.meta.get("nn_module_stack") or {})]
                for reader in within[:1] if side == "inputs" and within else found[-1:]:
                    given.name = reader.name
                    readers.append((call, side, place, reader.args.index(node)))
    return readers


def _name_read(program: ExportedProgram, readers: Picks) -> None:
    """Let signatures name what their readers read, once the graph is written anew."""
    nodes = {node.name: node for node in program.graph.nodes}
    for call, side, place, number in readers:
        named = getattr(program.module_call_graph[call].signature, side)
        source = nodes[named[place].name].args[number]
        if not isinstance(source, Node):
            raise ValueError("a view is read otherwise than it was")
        named[place] = TensorArgument(name=source.name)


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.is_mutable and any(one.alias_info is not None for one in schema.returns)


def _keeps(user: Node, node: Node) -> bool:
    """Tell whether a user of a node is there as it is without changes in place, and reads it by position."""
    is_operator = isinstance(user.target, torch._ops.OpOverload)
    return is_operator and not _is_view(user) and not _changes_in_place(user) and node in user.args


def _without_casts(node: Node) -> Node:
    while getattr(node.target, "overloadpacket", None) is torch.ops.aten.to:
        source = node.args[0]
        if not isinstance(source, Node) or value_of(source).dtype != value_of(node).dtype:
            break
        node = source
    return node


def _placeholders(program: ExportedProgram) -> tuple[dict[Node, Tensor], dict[Node, str], list[Node]]:
    """Return parameters, buffers and constants by node, their names, and the user's inputs in order."""
    state: dict[Node, Tensor] = {}
    names: dict[Node, str] = {}
    inputs: list[Node] = []
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec in program.graph_signature.input_specs:
        node = nodes[spec.arg.name]
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(node)
            continue
        target = str(spec.target)
        value = program.state_dict.get(target, program.constants.get(target))
        state[node] = value
        names[node] = target
    return state, names, inputs


def _changes_in_place(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable and node.op == "call_function")


def _key(key: str) -> str:
    return key.removeprefix("L__self__")
