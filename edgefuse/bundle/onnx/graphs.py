"""Check the graphs of an ONNX file: known operators, loops that end, and a run in bounded memory and time.

Shapes are followed from the inputs on (`operators.py` has the rules), and so are the few numbers that say sizes. Open
sizes count as `OPEN_SIZES`, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgefuse.bundle.onnx.call import Call, Value
from edgefuse.bundle.onnx.inputs import check_inputs
from edgefuse.bundle.onnx.messages import Message
from edgefuse.bundle.onnx.nodes import (
    by_name,
    check_attributes,
    check_declared,
    check_domain,
    constant_of,
    declared,
    filling,
    graphs_in,
)
from edgefuse.bundle.onnx.operators import MAX_SIZE, MICROSOFT, OWN, RULES, SEQUENCES, made, sequence
from edgefuse.bundle.onnx.products import multiplications
from edgefuse.bundle.onnx.tensors import check_tensor
from edgefuse.bundle.refusal import RefusedError

MAX_STEPS = 2**16
"""Of a loop, and of loops in loops together."""

MAX_LIVE = 2**27
"""Of numbers that are computed and still needed at one moment."""

MAX_WORK = 2**38
"""Of multiplications and copied numbers of one run: seconds of a fast core."""

MAX_UNPACKED = 2**26
"""Of numbers that a runtime makes of constants when it opens a file, beyond eight times the file's bytes."""

MAX_FOLLOWED = 30_000
"""Of operators that are looked at; those of a loop more than once where shapes change from step to step."""

MAX_VERSION = 1_000
"""Of a set of operators, of which there are 28: OpenVINO counts up to it."""

OPEN_SIZES = (1, 256)
"""What the sizes count as that an input leaves open."""

_NAMED = 8  # constants, ports or parts of a sequence, which take as long to look at as an operator
_DISPATCH = 2**15  # an operator costs as much as this many multiplications, however little it does

# Numbers of fields in onnx.proto.
_VERSION, _GRAPH, _OPERATORS, _TRAINING, _FUNCTION = 1, 7, 8, 20, 25
_OPERATORS_VERSION = 2
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_INPUTS, _OUTPUTS = 11, 12
_DECLARED = (_INPUTS, _OUTPUTS, 13)
_INPUT, _OUTPUT, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7
_NAME = 1
_TENSOR_NAME = 8
_OVERRIDABLE = 4  # the version from which on an input may stand in for a constant of its name

_PACKING = frozenset(
    {
        *("Conv", "FusedConv", "ConvTranspose", "ConvInteger", "QLinearConv", "MatMul", "MatMulInteger", "Gemm"),
        *("QLinearMatMul", "FusedMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "LSTM"),
        *("GRU", "RNN", "DynamicQuantizeLSTM", "Attention", "QAttention"),
    }
)
_PICKING = frozenset({"Shape", "Size", "Gather", "GatherElements", "GatherND", "GatherBlockQuantized", "Slice"})


def check_model(model: Message, data: bytes) -> None:
    """Check a ModelProto in full, or raise `RefusedError`."""
    if model.all(_TRAINING) or model.all(_FUNCTION):
        raise RefusedError("has functions of its own, or says how it is trained")
    if len(model.all(_GRAPH)) != 1:
        raise RefusedError("has no graph")
    for operators in model.all(_OPERATORS):
        if not 1 <= operators.integer(_OPERATORS_VERSION) <= MAX_VERSION:
            raise RefusedError(f"asks for version {operators.integer(_OPERATORS_VERSION)} of a set of operators")
    walk, graph = _Walk(data, overridable=model.integer(_VERSION) >= _OVERRIDABLE), model.all(_GRAPH)[0]
    for size in OPEN_SIZES:
        given = [declared(value, size, wanted=True) for value in graph.all(_INPUTS)]
        cost = walk.whole(graph, given)
        if cost.work > MAX_WORK:
            raise RefusedError(
                f"needs {min(cost.work, MAX_SIZE)} multiplications in one run, where {MAX_WORK} are the most"
            )
        if given == [declared(value, 0, wanted=True) for value in graph.all(_INPUTS)]:
            return


@dataclass(frozen=True)
class _Cost:
    """What a graph takes in one run: computed numbers at the worst moment, and work."""

    live: int
    work: int


class _Scope:
    """What a graph may refer to by name, and how often it runs for one run of the file."""

    def __init__(self, outer: _Scope | None, runs: int = 1, *, scanned: bool = False) -> None:
        self.values: dict[str, Value] = {}
        self.pending: set[str] = set()
        self.runs, self.scanned = runs, scanned
        self._outer = outer

    def find(self, name: str) -> Value:
        """Return what a name stands for, in this graph or those around it."""
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            if name in scope.pending:
                break
            scope = scope._outer
        raise RefusedError(f"reads {name!a} before it is made")


class _Walk:
    """Goes through a graph and those within it, in the order of execution."""

    def __init__(self, data: bytes, *, overridable: bool) -> None:
        self._data = data
        self._overridable = overridable
        self._checked: set[int] = set()
        self._constants: dict[int, Mapping[str, Value]] = {}
        self._used: dict[int, frozenset[str]] = {}
        self._unpacked = 0
        self._followed = 0

    def whole(self, graph: Message, given: Sequence[Value]) -> _Cost:
        """Return what one run of the main graph takes."""
        self._followed = 0
        return self.graph(graph, _Scope(None), given)[1]

    def graph(self, graph: Message, scope: _Scope, given: Sequence[Value]) -> tuple[list[Value], _Cost]:
        """Return what a graph makes of what it is given, and what that takes."""
        nodes = graph.all(_NODE)
        named = sum(len(graph.all(number)) for number in (_INITIALIZER, _INPUTS, _OUTPUTS))
        self._follow(1 + len(nodes) + named // _NAMED)
        constants = self._constants_of(graph)
        held = self._enter(graph, scope, given, constants)
        results = [value.text(_NAME) for value in graph.all(_OUTPUTS)]
        uses = [self._names(node) for node in nodes]
        last = {name: place for place, names in enumerate(uses) for name in names}
        last |= dict.fromkeys(results, len(nodes))
        scope.pending = {name for node in nodes for name in node.texts(_OUTPUT)} - scope.values.keys()
        most, work = held, 0
        for place, node in enumerate(nodes):
            outputs = node.texts(_OUTPUT)
            values, cost = self._node(node, outputs, scope)
            work += cost.work
            for name, made_ in zip(outputs, values, strict=False):
                if name:
                    scope.values[name] = made_
                    scope.pending.discard(name)
                    held += made_.elements
            most = max(most, held + cost.live)
            if most > MAX_LIVE:
                raise RefusedError(f"needs {min(most, MAX_SIZE)} numbers at once, where {MAX_LIVE} are the most")
            for name in {*uses[place], *outputs}:
                if last.get(name, place) == place and name in scope.values and name not in constants:
                    held -= scope.values[name].elements
        return [scope.find(name) for name in results], _Cost(most, work)

    def _follow(self, operators: int) -> None:
        """Count what is looked at, so that a loop whose shapes change in each step ends, too."""
        self._followed += operators
        if self._followed > MAX_FOLLOWED:
            raise RefusedError(f"has more than {MAX_FOLLOWED} operators, those of a loop counted as shapes change")

    def _enter(self, graph: Message, scope: _Scope, given: Sequence[Value], constants: Mapping[str, Value]) -> int:
        """Name constants and inputs in a scope; return how many numbers the inputs have."""
        scope.values.update(constants)
        held = 0
        for place, value in enumerate(graph.all(_INPUTS)):
            name = value.text(_NAME)
            if name not in constants:
                scope.values[name] = given[place] if place < len(given) else declared(value, OPEN_SIZES[-1])
                held += scope.values[name].elements
            elif self._overridable:
                scope.values[name] = replace(constants[name], values=None, constant=False)
        return held

    def _constants_of(self, graph: Message) -> Mapping[str, Value]:
        """Return the constants of a graph, having checked them once."""
        found = self._constants.get(id(graph))
        if found is None:
            if graph.all(_SPARSE):
                raise RefusedError("has a sparse tensor")
            check_declared([value for number in _DECLARED for value in graph.all(number)])
            checked = [(each.text(_TENSOR_NAME), check_tensor(each, self._data)) for each in graph.all(_INITIALIZER)]
            found = {name: Value(each.shape, each.values, constant=True) for name, each in checked if name}
            self._constants[id(graph)] = found
        return found

    def _names(self, node: Message) -> frozenset[str]:
        """Return the names that an operator reads, and the graphs that it runs."""
        found = self._used.get(id(node))
        if found is None:
            names = {name for name in node.texts(_INPUT) if name}
            for inner in graphs_in(node.all(_ATTRIBUTE)):
                names.update(value.text(_NAME) for value in inner.all(_OUTPUTS))
                names.update(*(self._names(each) for each in inner.all(_NODE)))
            found = self._used[id(node)] = frozenset(names)
        return found

    def _node(self, node: Message, outputs: Sequence[str], scope: _Scope) -> tuple[list[Value], _Cost]:
        """Return what one operator makes, and what it takes."""
        operator, domain, attributes = node.text(_OPERATOR), node.text(_DOMAIN), node.all(_ATTRIBUTE)
        first = id(node) not in self._checked
        if first:
            self._checked.add(id(node))
            check_domain(operator, domain)
            check_attributes(self._data, operator, attributes)
        inputs = [scope.find(name) if name else None for name in node.texts(_INPUT)]
        graphs = graphs_in(attributes)
        if graphs:
            return self._run(operator, domain, inputs, graphs, scope, by_name(attributes))
        if operator == "Constant" and domain != MICROSOFT:
            return [constant_of(self._data, attributes)], _Cost(0, 0)
        call = Call(
            operator, inputs, len(outputs), by_name(attributes), self._data, filling(self._data, operator, attributes)
        )
        check_inputs(call, own=domain == MICROSOFT)
        if operator in SEQUENCES and domain != MICROSOFT:
            sequences = sequence(call)
            self._follow(sum(len(each.parts or ()) for each in sequences) // _NAMED)
            return sequences, _Cost(0, _DISPATCH)
        self._follow(sum(len(each.parts) for each in inputs if each and each.parts) // _NAMED)
        rule = (OWN if domain == MICROSOFT else RULES).get(operator)
        if rule is None:
            raise RefusedError(f"has an operator {operator!a}, which is none that edgefuse knows")
        values = made(call, rule)
        written, read = sum(each.elements for each in values), sum(each.elements for each in inputs if each)
        if written > MAX_LIVE:
            many = min(written, MAX_SIZE)
            raise RefusedError(
                f"has an operator {operator!a} that writes {many:g} numbers, where {MAX_LIVE} are the most"
            )
        if first:
            self._unpack(operator, inputs, values)
        work = _DISPATCH + written * multiplications(call) + (0 if operator in _PICKING else read)
        return values, _Cost(0, work)

    def _unpack(self, operator: str, inputs: Iterable[Value | None], values: Sequence[Value]) -> None:
        """Count what a runtime makes of constants: weights in an order of its own, and what they alone decide."""
        if operator in _PACKING:
            self._unpacked += sum(each.elements for each in inputs if each and each.constant)
        self._unpacked += sum(each.elements for each in values if each.constant)
        if self._unpacked > 8 * len(self._data) + MAX_UNPACKED:
            raise RefusedError(f"has operators that unpack {min(self._unpacked, MAX_SIZE)} numbers of constants")

    def _run(
        self,
        operator: str,
        domain: str,
        inputs: Sequence[Value | None],
        graphs: Sequence[Message],
        scope: _Scope,
        attributes: Mapping[str, Message],
    ) -> tuple[list[Value], _Cost]:
        """Return what an operator makes that runs graphs; the steps of a loop stand in the file."""
        if domain == MICROSOFT or operator not in ("If", "Loop", "Scan"):
            raise RefusedError(f"has an operator {operator!a} that runs graphs")
        check_inputs(Call(operator, inputs, 0, attributes, self._data), own=False)
        if operator == "If":
            return self._choose(graphs, scope)
        if operator == "Scan":
            return self._scan(graphs, inputs, scope, attributes)
        return self._loop(graphs, inputs, scope)

    def _choose(self, graphs: Sequence[Message], scope: _Scope) -> tuple[list[Value], _Cost]:
        found = [self.graph(each, _Scope(scope, scope.runs, scanned=scope.scanned), ()) for each in graphs]
        values = found[0][0]
        for others, _ in found[1:]:
            values = [_either(one, other) for one, other in zip(values, others, strict=False)]
        plain = [replace(each, values=None, constant=False) for each in values]
        return plain, _Cost(max(cost.live for _, cost in found), _DISPATCH + max(cost.work for _, cost in found))

    def _scan(
        self,
        graphs: Sequence[Message],
        inputs: Sequence[Value | None],
        scope: _Scope,
        attributes: Mapping[str, Message],
    ) -> tuple[list[Value], _Cost]:
        if scope.runs > 1 or scope.scanned:
            raise RefusedError("has a Scan within a loop")
        call = Call("Scan", inputs, 0, attributes, self._data)
        states = max(0, len(inputs) - max(1, call.integer("num_scan_inputs", 1)))
        axes, steps, parts = call.integers("scan_input_axes"), 1, []
        for place in range(states, len(inputs)):
            shape = call.shape(place, 1)
            axis = call.axis(axes[place - states] if place - states < len(axes) else 0, len(shape))
            steps = max(steps, shape[axis])
            parts.append(Value((*shape[:axis], *shape[axis + 1 :]), exact=call.input(place).exact))
        carried = [call.input(place) for place in range(states)]
        return self._repeat(graphs, carried, parts, steps, _Scope(scope, 1, scanned=True), fixed=0)

    def _loop(
        self, graphs: Sequence[Message], inputs: Sequence[Value | None], scope: _Scope
    ) -> tuple[list[Value], _Cost]:
        steps = inputs[0].values if inputs and inputs[0] else None
        if steps is None or steps.size != 1 or steps.dtype.kind not in "iu":
            raise RefusedError("has a Loop whose number of steps does not stand in the file")
        count = max(1, int(steps.ravel()[0]))
        runs = scope.runs * count
        if runs > MAX_STEPS or (scope.scanned and runs > 1):
            raise RefusedError(f"has a Loop of {runs} steps, or within a Scan, where {MAX_STEPS} are the most")
        carried = [each for each in inputs[2:] if each]
        return self._repeat(graphs, carried, [], count, _Scope(scope, runs, scanned=scope.scanned), fixed=1)

    def _repeat(
        self,
        graphs: Sequence[Message],
        carried: Sequence[Value],
        parts: Sequence[Value],
        steps: int,
        scope: _Scope,
        *,
        fixed: int,
    ) -> tuple[list[Value], _Cost]:
        """Follow the steps of a loop until nothing changes; a `Loop` has a count and a condition before the rest."""
        states = [replace(each, values=None, constant=False) for each in carried]
        stacked: list[Value] = []
        live = work = 0
        for step in range(steps):
            inner = _Scope(scope, scope.runs, scanned=scope.scanned)
            before = [Value(())] * (2 * fixed)
            outputs, cost = self.graph(graphs[0], inner, [*before, *states, *parts])
            plain = [replace(each, values=None, constant=False) for each in outputs[fixed:]]
            after = [_either(one, other) for one, other in zip(states, plain, strict=False)]
            stacked = [_stack(each, steps) for each in plain[len(states) :]]
            live = max(live, cost.live)
            if after == states[: len(after)]:
                work += cost.work * (steps - step)
                break
            work += cost.work
            states = [*after, *states[len(after) :]]
        return [*states, *stacked], _Cost(live, _DISPATCH + work)


def _stack(value: Value, steps: int) -> Value:
    return Value((steps, *value.shape), exact=False)


def _either(one: Value, other: Value) -> Value:
    """Return the most that two values can be, of which a run has one."""
    if one.parts is not None or other.parts is not None or len(one.shape) != len(other.shape):
        raise RefusedError("has an operator that makes tensors of one number of axes or of another")
    if one.shape == other.shape:
        return replace(one, exact=one.exact and other.exact)
    return Value(tuple(map(max, one.shape, other.shape)), exact=False)
