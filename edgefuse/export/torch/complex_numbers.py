"""Complex values of a traced stage as pairs of real ones, followed until they become real."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg

from edgefuse.export.torch.inlining import Form, argument, constant_of, inline, is_float, replace
from edgefuse.export.torch.spectra import PAIRS, back_to_samples
from edgefuse.export.torch.transforms import is_transform, transform

aten = torch.ops.aten

Pair: TypeAlias = tuple[Node, Node]
"""The nodes of the real and the imaginary part."""

_MOVES = frozenset(
    {
        aten.transpose.int,
        aten.permute.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.unsqueeze.default,
        aten.reshape.default,
        aten.view.default,
        aten.flatten.using_ints,
        aten.clone.default,
        aten.contiguous.default,
        aten.expand.default,
        aten.narrow.default,
        aten.t.default,
        aten.numpy_T.default,
        aten.mT.default,
        aten.movedim.int,
        aten.alias.default,
        aten.copy.default,
        aten.copy_.default,
        aten.slice_scatter.default,
        aten.select_scatter.default,
        aten.where.self,
        aten.cat.default,
        aten.stack.default,
        aten.index_select.default,
        aten.zeros_like.default,
    }
)
"""What moves values about, and does the same to both parts."""

_ZEROS = (aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default)


def has_complex_numbers(program: ExportedProgram) -> bool:
    """Tell whether a traced stage computes with complex numbers."""
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    return any(node.target in PAIRS or _is_complex(node) for node in calls)


def pair_complex_numbers(program: ExportedProgram) -> None:
    """Compute with pairs in place of complex numbers, in place; what has no such form stays."""
    pairs: dict[Node, Pair] = {}
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        found = _pair(program, node, pairs)
        if found is not None:
            pairs[node] = found
        elif any(source in pairs for source in node.all_input_nodes):
            _become_real(program, node, pairs)
    for node in reversed(list(program.graph.nodes)):
        if node in pairs and not node.users:
            _drop(program, node)


def _drop(program: ExportedProgram, node: Node) -> None:
    """Drop a node that nothing uses any more, or a complex weight, which no file holds."""
    specs = program.graph_signature.input_specs
    place = next((i for i, spec in enumerate(specs) if spec.arg.name == node.name), None)
    if node.op == "placeholder" and place is not None and specs[place].kind is not InputKind.USER_INPUT:
        del specs[place]
    elif node.op == "placeholder":
        return
    program.graph.erase_node(node)


def _pair(program: ExportedProgram, node: Any, pairs: dict[Node, Pair]) -> Pair | None:
    """Return the parts of what a node gives, if it gives complex numbers that have a form here."""
    if node.target in PAIRS:
        form = PAIRS[node.target](program, node)
        return None if form is None else _two(inline(program, node, form))
    if not _is_complex(node):
        return None
    if is_transform(node):
        form = transform(node, _parts(program, node, node.args[0], pairs))
        return None if form is None else _two(inline(program, node, form))
    if node.target is aten.complex.default:
        return node.args[0], node.args[1]
    if node.target is aten.polar.default:
        polar = Form(lambda size, angle: (size * angle.cos(), size * angle.sin()), (node.args[0], node.args[1]))
        return _two(inline(program, node, polar))
    if node.target is aten.view_as_complex.default:
        return _two(inline(program, node, Form(lambda x: (x[..., 0], x[..., 1]), (node.args[0],))))
    if node.target in _MOVES and (moved := _moved(program, node, pairs)) is not None:
        return moved
    if node.target in _ZEROS and not any(map(_is_complex, node.all_input_nodes)):
        return _on_parts(program, node, {}), _on_parts(program, node, {})
    return _computed(program, node, pairs)


def _is_complex(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return isinstance(value, Tensor) and value.is_complex()


def _parts(program: ExportedProgram, node: Any, given: Any, pairs: dict[Node, Pair]) -> Pair | None:
    """Return the parts of what a node is given: found before, or of a constant."""
    if not _is_complex(given):
        return None
    if given not in pairs and (constant := constant_of(program, given)) is not None:
        halves = (constant.real.contiguous(), constant.imag.contiguous())
        held = Form(lambda real, imaginary: (real.reshape(real.shape), imaginary.reshape(real.shape)), (), halves)
        pairs[given] = _two(inline(program, node, held))
    return pairs.get(given)


def _moved(program: ExportedProgram, node: Any, pairs: dict[Node, Pair]) -> Pair | None:
    """Return what a node makes of both parts of what it is given; None if some of that has no parts."""
    given = [one for one in node.all_input_nodes if _is_complex(one) or is_float(one)]
    parts = {one: _parts(program, node, one, pairs) for one in given}
    if not parts or None in parts.values():
        return None
    real, imaginary = ({one: pair[side] for one, pair in parts.items() if pair} for side in (0, 1))
    return _on_parts(program, node, real), _on_parts(program, node, imaginary)


def _on_parts(program: ExportedProgram, node: Any, parts: Mapping[Node, Node]) -> Node:
    """Do what a node does to one part of each complex tensor that it is given."""
    value = torch.view_as_real(node.meta["val"].resolve_conj())[..., 0]
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda given: parts.get(given, given))
    if isinstance(kwargs.get("dtype"), torch.dtype):
        kwargs = {**kwargs, "dtype": value.dtype}
    with program.graph.inserting_before(node):
        made: Node = program.graph.call_function(node.target, tuple(args), kwargs)
    made.meta = {**node.meta, "val": value}
    return made


def _computed(program: ExportedProgram, node: Any, pairs: dict[Node, Pair]) -> Pair | None:
    """Return conjugates, sums and products."""
    first, second = argument(node, 0), argument(node, 1)
    words: tuple[Any, ...] = ()
    if node.target is aten.einsum.default:
        if len(second) != 2:
            return None
        words, (first, second) = (first,), second
    one, other = (_parts(program, node, given, pairs) for given in (first, second))
    if (one is None and other is None) or any(
        _is_complex(given) and found is None for given, found in ((first, one), (second, other))
    ):
        return None
    if node.target in (aten.conj.default, aten._conj.default, aten.conj_physical.default) and one is not None:
        return one[0], inline(program, node, Form(lambda y: -y, (one[1],)))[0]
    if node.target in (aten.resolve_conj.default, aten.resolve_neg.default):
        return one
    rule = _product(node.target, words) if node.target in _PRODUCTS else _RULES.get(node.target)
    if rule is None or (isinstance(second, complex)):
        return None
    parts = [*_sides(first, one), *_sides(second, other)]
    nodes = tuple(dict.fromkeys(part for part in parts if isinstance(part, Node)))

    def function(*tensors: Tensor) -> Any:
        known = dict(zip(nodes, tensors, strict=True))
        return rule(*(known[part] if isinstance(part, Node) else part for part in parts))

    return _two(inline(program, node, Form(function, nodes)))


def _sides(given: Any, pair: Pair | None) -> tuple[Any, Any]:
    return (given, 0.0) if pair is None else pair


def _product(function: Any, words: tuple[Any, ...]) -> Callable[..., tuple[Any, Any]]:
    """Return the rule of what is linear in both sides, such as a matrix product."""

    def times(a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
        def of(x: Any, y: Any) -> Any:
            return function(*words, [x, y]) if words else function(x, y)

        if isinstance(d, float):
            return of(a, c), of(b, c)
        if isinstance(b, float):
            return of(a, c), of(a, d)
        return of(a, c) - of(b, d), of(a, d) + of(b, c)

    return times


def _times(a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
    if isinstance(d, float):
        return a * c, b * c
    if isinstance(b, float):
        return a * c, a * d
    return a * c - b * d, a * d + b * c


def _over(a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any]:
    if isinstance(d, float):
        return a / c, b / c
    size = c * c + d * d
    real, imaginary = _times(a, b, c, -d)
    return real / size, imaginary / size


_PRODUCTS = (aten.einsum.default, aten.matmul.default, aten.bmm.default, aten.mm.default)
_RULES: dict[Any, Callable[..., tuple[Any, Any]]] = {
    aten.mul.Tensor: _times,
    aten.div.Tensor: _over,
    aten.add.Tensor: lambda a, b, c, d: (a + c, b + d),
    aten.sub.Tensor: lambda a, b, c, d: (a - c, b - d),
}


def _become_real(program: ExportedProgram, node: Any, pairs: dict[Node, Pair]) -> None:
    """Replace what makes real numbers of complex ones."""
    pair = pairs.get(node.args[0]) if node.args and isinstance(node.args[0], Node) else None
    if pair is None:
        return
    if is_transform(node) or node.target is aten.istft.default:
        form = transform(node, pair) if is_transform(node) else back_to_samples(program, node, pair)
        if form is not None:
            replace(program, node, inline(program, node, form)[0])
    elif node.target in (aten.real.default, aten.imag.default):
        replace(program, node, pair[node.target is aten.imag.default])
    elif node.target in _REAL:
        if node.target is aten.abs.default and node.users and all(_squares(user) for user in node.users):
            for user in list(node.users):
                replace(program, user, inline(program, node, Form(_power, pair))[0])
            program.graph.erase_node(node)
        else:
            replace(program, node, inline(program, node, Form(_REAL[node.target], pair))[0])


def _squares(node: Any) -> bool:
    if node.target is aten.mul.Tensor:
        return node.args[0] is node.args[1]
    return node.target is aten.square.default or (
        node.target is aten.pow.Tensor_Scalar and operator.eq(node.args[1], 2)
    )


def _power(real: Tensor, imaginary: Tensor) -> Tensor:
    return real * real + imaginary * imaginary


_REAL: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    aten.abs.default: lambda real, imaginary: _power(real, imaginary).sqrt(),
    aten.angle.default: lambda real, imaginary: torch.atan2(imaginary, real),
    aten.view_as_real.default: lambda real, imaginary: torch.stack([real, imaginary], -1),
}


def _two(nodes: tuple[Node, ...]) -> Pair:
    real, imaginary = nodes
    return real, imaginary
