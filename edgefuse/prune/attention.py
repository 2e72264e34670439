"""Attention found by what a forward pass computes, whatever its layers and attributes are called.

One pass under a mode follows which linear layer every query, key and value comes from and which one reads the result,
through views, scales, norms of heads and rotations. The gradient of a head by the output of such a layer says which
of its rows the head is made of: fused, split, interleaved. What must be right for a head to be removable is then tried:
with the sizes of its views pinned (see `sizes.py`), the narrow module has to answer as the whole one does with zeros
in place of that head.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse.prune.observation import Attended, Made, Observation, Scope, SizedCall, observe
from edgefuse.prune.sizes import Pin, Pins, pin, rounds_of, tensors_in
from edgefuse.stages.stage import TorchStage

_MOST_TRIES = 48
FAILURES = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError)
"""What a forward pass raises when sizes do not fit together."""

Sizes = dict[int, tuple[tuple[str, Any], ...]]
"""The kind of each size of a call, by its number: `fixed`, `given`, `heads` (goes with their number), `scaled`."""


@dataclass(frozen=True)
class Attention:
    """An attention whose heads are linear layers' rows.

    Attributes:
        home: the name of the module whose forward pass holds all of it.
        heads: how many.
        rows: by the name of each layer that makes queries, keys or values: the rows of each head.
        out: the name of the layer that reads the result.
        columns: of that layer, those of each head.
        sizes: what the sizes in the home's forward pass go with.
        reason: why no head can be removed; empty if they can be.
    """

    home: str
    heads: int
    rows: dict[str, tuple[Tensor, ...]]
    out: str
    columns: tuple[Tensor, ...]
    sizes: Sizes = field(default_factory=dict)
    reason: str = ""

    @property
    def layers(self) -> set[str]:
        """The names of its linear layers."""
        return {*self.rows, self.out}

    def pins(self, left: int) -> Pins:
        """Return the sizes that go with so many heads."""
        return {number: tuple(self._pin(kind, left) for kind in kinds) for number, kinds in self.sizes.items()}

    def _pin(self, kind: tuple[str, Any], left: int) -> Pin:
        name, size = kind
        if name == "heads":
            return int(size) * left // self.heads
        if name == "scaled":
            return left, self.heads
        return size if name == "fixed" else None

    def narrow(self, module: nn.Module, kept: Sequence[int]) -> None:
        """Keep some heads only, in place.

        Args:
            module: whose names these are.
            kept: numbers of heads, ascending.
        """
        gone = [head for head in range(self.heads) if head not in set(kept)]
        for name, rows in self.rows.items():
            layer: Any = module.get_submodule(name)
            left = _without(len(layer.weight), [rows[head] for head in gone])
            layer.weight = nn.Parameter(layer.weight.detach()[left].contiguous())
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias.detach()[left].contiguous())
            layer.out_features = len(left)
        out: Any = module.get_submodule(self.out)
        left = _without(out.weight.shape[1], [self.columns[head] for head in gone])
        out.weight = nn.Parameter(out.weight.detach()[:, left].contiguous())
        out.in_features = len(left)
        if self.sizes:
            home = module.get_submodule(self.home)
            latest, *before = rounds_of(home)
            pin(home, {**latest, **self.pins(len(kept))}, *before)


def pin_whole(module: nn.Module, attentions: Sequence[Attention]) -> None:
    """Begin a round of pins with the sizes that attentions have with all of their heads, in place.

    Their insides then no longer depend on the width of what goes in and out.
    """
    by_home: dict[str, dict[int, tuple[Pin, ...]]] = {}
    for attention in attentions:
        if attention.sizes:
            by_home.setdefault(attention.home, {}).update(attention.pins(attention.heads))
    for name, pins in by_home.items():
        home = module.get_submodule(name)
        pin(home, pins, *rounds_of(home))


def _without(count: int, gone: Sequence[Tensor]) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    for positions in gone:
        left[positions] = False
    return left.nonzero().flatten()


def attentions_of(stage: TorchStage, batches: Sequence[tuple[Tensor, ...]]) -> list[Attention]:
    """Return the attentions with two heads or more in a stage's module, in the order in which they run.

    Args:
        stage: with a module in eval mode.
        batches: inputs of the module, of several sizes.
    """
    if not any(isinstance(part, nn.Linear) for part in stage.module.modules()):
        return []
    seen: list[Observation] = []
    for batch in batches:
        with suppress(*FAILURES):  # a size that the unpruned module does not take says nothing about attention
            seen.append(observe(stage.module, batch))
            if not seen[0].attended:
                break
    found: dict[tuple[str, ...], Attention] = {}
    for number, attended in enumerate(seen[0].attended if seen else []):
        attention = _attention(stage.module, seen, number, attended)
        if attention is not None and not any(attention.layers & set(names) for names in found):
            found[tuple(sorted(attention.layers))] = attention
    return list(found.values())


def _attention(module: nn.Module, seen: Sequence[Observation], number: int, attended: Attended) -> Attention | None:
    """Return what one product of weights and values is; None if no linear layers lie around it."""
    first = seen[0]
    sources = [first.made_by(tensor) for tensor in (attended.query, attended.key, attended.value)]
    reader = first.reader(attended)
    if reader is None or not all(sources):
        return None
    rows = _rows(attended, sources)
    if rows is None:
        return None
    heads, by_layer = rows
    columns = _columns(attended, reader, heads)
    if columns is None:
        return None
    others = [o for o in seen if len(o.attended) == len(first.attended)]
    home = _home(first, attended, by_layer, reader)
    attention = Attention(home.name, heads, {name: found for name, found in by_layer.items()}, reader.name, columns)
    return _tried(module, attention, [_calls(o, number, home.name) for o in others], _givens(others, number, home.name))


def _rows(attended: Attended, sources: Sequence[Sequence[Made]]) -> tuple[int, dict[str, tuple[Tensor, ...]]] | None:
    """Return the number of heads, and by layer the rows that each head is made of."""
    tensors = (attended.query, attended.key, attended.value)
    for axis in (-3, -2) if attended.query.dim() > 3 else (0,):
        sizes = {tensor.shape[axis] for tensor in tensors}
        heads = next(iter(sizes))
        if len(sizes) > 1 or heads < 2:
            continue
        found: dict[str, list[Tensor]] = {}
        for tensor, made in zip(tensors, sources, strict=True):
            for layer in made:
                touched = torch.stack([_touched(tensor.select(axis, head), layer.output) for head in range(heads)])
                before = found.get(layer.name)
                found[layer.name] = touched if before is None else before | touched  # type: ignore[assignment,operator]
        parts: dict[str, tuple[Tensor, ...]] = {
            name: tuple(row.nonzero().flatten() for row in torch.as_tensor(touched)) for name, touched in found.items()
        }
        if all(_disjoint(rows) for rows in parts.values()):
            return heads, parts
    return None


def _touched(part: Tensor, output: Tensor) -> Tensor:
    """Say of each channel of a layer's output whether a part of a tensor depends on it, bool [channels]."""
    signs = torch.linspace(1, 2, part.numel()).reshape(part.shape)
    (gradient,) = torch.autograd.grad((part * signs).sum(), output, retain_graph=True, allow_unused=True)
    if gradient is None:
        return torch.zeros(output.shape[-1], dtype=torch.bool)
    return gradient.reshape(-1, gradient.shape[-1]).ne(0).any(0)


def _disjoint(parts: Sequence[Tensor]) -> bool:
    """Say whether parts are as long as each other, and share nothing."""
    whole = torch.cat(list(parts))
    return len(parts[0]) > 0 and len({len(part) for part in parts}) == 1 and len(whole.unique()) == len(whole)


def _columns(attended: Attended, reader: Made, heads: int) -> tuple[Tensor, ...] | None:
    """Return the columns of the reading layer that each head comes to, if nothing but views lies between."""
    codes = torch.arange(1.0, reader.input.shape[-1] + 1)
    total = (reader.input * codes).sum()
    (gradient,) = torch.autograd.grad(total, attended.result, retain_graph=True, allow_unused=True)
    if gradient is None:
        return None
    for axis in (-3, -2) if gradient.dim() > 3 else (0,):
        if gradient.shape[axis] == heads:
            parts = [gradient.select(axis, head).unique() for head in range(heads)]
            whole = torch.cat(parts)
            if _disjoint(parts) and bool((whole == whole.round()).all()) and whole.min() >= 1:
                return tuple(part.long() - 1 for part in parts)
    return None


def _home(seen: Observation, attended: Attended, rows: dict[str, Any], reader: Made) -> Scope:
    """Return the innermost running module that all of an attention lies in."""
    stacks = [attended.scopes, reader.scopes, *(made.scopes for made in seen.made if made.name in rows)]
    common = attended.scopes
    for stack in stacks:
        common = tuple(scope for scope in common if scope in stack)
    for call in _between(seen, attended):
        common = tuple(scope for scope in common if scope in call.numbers)
    return common[-1]


def _between(seen: Observation, attended: Attended) -> list[SizedCall]:
    """Return the calls with sizes that work on what an attention is made of, or on its result."""
    made = {made for tensor in (attended.query, attended.key, attended.value) for made in seen.made_by(tensor)}
    return [call for call in seen.sized if call.marks & made or attended.number in call.marks]


def _scope(seen: Observation, number: int, name: str) -> Scope:
    return next(scope for scope in seen.attended[number].scopes if scope.name == name)


def _calls(seen: Observation, number: int, name: str) -> dict[int, SizedCall]:
    """Return those calls by their number in the home's forward pass."""
    home = _scope(seen, number, name)
    return {call.numbers[home]: call for call in _between(seen, seen.attended[number]) if home in call.numbers}


def _givens(seen: Sequence[Observation], number: int, name: str) -> list[tuple[Any, Any]]:
    """Return what the home was called with, by observation."""
    return [_scope(o, number, name).given for o in seen]


def _tried(
    module: nn.Module, attention: Attention, calls: Sequence[dict[int, SizedCall]], givens: Sequence[tuple[Any, Any]]
) -> Attention:
    """Return an attention with the sizes that let its heads go, or the reason why none do."""
    whole = module.get_submodule(attention.home)
    prefix = f"{attention.home}." if attention.home else ""
    inside = Attention(
        home="",
        heads=attention.heads,
        rows={name.removeprefix(prefix): rows for name, rows in attention.rows.items()},
        out=attention.out.removeprefix(prefix),
        columns=attention.columns,
    )
    reason = _shared(module, attention.layers)
    if not reason:
        trial = _Trial(whole, inside, givens)
        for sizes in itertools.islice(_hypotheses(calls, attention.heads), _MOST_TRIES):
            reason = trial.failure(sizes)
            if not reason:
                return _with(attention, sizes, "")
    sizes = {number: tuple(_steady(calls, number)) for number in calls[0]}
    return _with(attention, sizes, f"no head of '{attention.home or 'this stage'}' can be removed: {reason}")


def _with(attention: Attention, sizes: Sizes, reason: str) -> Attention:
    fields = {name: getattr(attention, name) for name in ("home", "heads", "rows", "out", "columns")}
    return Attention(**fields, sizes=sizes, reason=reason)


def _shared(module: nn.Module, names: set[str]) -> str:
    """Say which of some layers shares its weights with another."""
    counts: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    twice = [name for name in sorted(names) if counts[id(module.get_submodule(name).weight)] > 1]
    return f"'{twice[0]}' shares its weights with another layer" if twice else ""


def _steady(calls: Sequence[dict[int, SizedCall]], number: int) -> Iterator[tuple[str, Any]]:
    """Yield for each size of a call whether it is the same at all sizes of the input."""
    for position, size in enumerate(calls[0][number].sizes):
        here = [found[number].sizes for found in calls if number in found]
        same = all(len(sizes) > position and sizes[position] == size for sizes in here)
        yield ("fixed", size) if same and size != -1 else ("given", None)


def _hypotheses(calls: Sequence[dict[int, SizedCall]], heads: int) -> Iterator[Sizes]:
    """Yield which sizes may go with the number of heads, the likely ones first; equal calls are treated alike."""
    kinds: dict[tuple[str, tuple[Any, ...]], list[int]] = {}
    for number, call in calls[0].items():
        kinds.setdefault((call.kind, call.sizes), []).append(number)
    options = [_options(calls, numbers[0], kind, heads) for (kind, _), numbers in kinds.items()]
    ranks = _ranks([len(option) for option in options])
    for rank in ranks:
        yield {
            number: option[chosen]
            for option, chosen, numbers in zip(options, rank, kinds.values(), strict=True)
            for number in numbers
        }


def _ranks(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield a choice for each of some options: the first of all, then another one for one of them, then for two."""
    first = (0,) * len(counts)
    others = [(place, rank) for place, count in enumerate(counts) for rank in range(1, count)]
    for changes in ((), *((one,) for one in others), *itertools.combinations(others, 2)):
        yield tuple(dict(changes).get(place, rank) for place, rank in enumerate(first))


def _options(
    calls: Sequence[dict[int, SizedCall]], number: int, kind: str, heads: int
) -> list[tuple[tuple[str, Any], ...]]:
    steady = tuple(_steady(calls, number))
    sizes = calls[0][number].sizes
    scales = [position for position, (name, size) in enumerate(steady) if name == "fixed" and size and size % heads == 0]
    if kind != "view":
        every = tuple(("heads", size) if i in scales else (name, size) for i, (name, size) in enumerate(steady))
        return [every, steady]
    order = sorted(scales, key=lambda position: (sizes[position] != heads, -sizes[position]))
    found = [_one(steady, position, ("heads", sizes[position])) for position in order]
    exact = [option for option, position in zip(found, order, strict=True) if sizes[position] == heads]
    rest = [option for option in found if option not in exact]
    moving = [i for i, (name, _) in enumerate(steady) if name == "given" and sizes[i] != -1]
    scaled = [_one(steady, position, ("scaled", None)) for position in moving]
    unchanged = [steady]
    return [*exact, *unchanged, *rest, *scaled] if -1 in sizes else [*exact, *rest, *scaled, *unchanged]


def _one(steady: Sequence[tuple[str, Any]], position: int, kind: tuple[str, Any]) -> tuple[tuple[str, Any], ...]:
    return (*steady[:position], kind, *steady[position + 1 :])


class _Trial:
    """The home of an attention without some heads, against the whole one with zeros in their place."""

    def __init__(self, whole: nn.Module, attention: Attention, givens: Sequence[tuple[Any, Any]]) -> None:
        self._attention = attention
        self._givens = givens
        self._kept = list(range(attention.heads // 2, attention.heads))
        self._narrow = copy.deepcopy(whole)
        silent = copy.deepcopy(whole)
        gone = torch.cat([attention.columns[head] for head in range(attention.heads) if head not in self._kept])
        out: Any = silent.get_submodule(attention.out)
        with torch.no_grad():
            out.weight[:, gone] = 0
        self._expected = [_answers(silent, given) for given in givens]
        attention.narrow(self._narrow, self._kept)

    def failure(self, sizes: Sizes) -> str:
        """Say why an attention does not work with the sizes of fewer heads; nothing if it does."""
        before = rounds_of(self._narrow)
        if sizes:
            pin(self._narrow, _with(self._attention, sizes, "").pins(len(self._kept)), *before)
        try:
            for given, expected in zip(self._givens, self._expected, strict=True):
                if reason := _difference(_answers(self._narrow, given), expected):
                    return reason
        except FAILURES as error:
            return str(error).strip().split("\n")[0]
        finally:
            pin(self._narrow, *before)
        return ""


def _answers(module: nn.Module, given: tuple[Any, Any]) -> list[Tensor]:
    with torch.no_grad():
        return tensors_in(module(*given[0], **given[1]))


def _difference(got: Sequence[Tensor], expected: Sequence[Tensor]) -> str:
    """Say how answers differ; weights of attention, which have heads of their own, may."""
    pairs = [(a, b) for a, b in zip(got, expected, strict=False) if a.shape == b.shape]
    if not pairs or got[0].shape != expected[0].shape:
        return "its answer has another shape without it"
    if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * (1 + float(b.abs().max()))) for a, b in pairs):
        return "the rest of it answers differently without it"
    return ""
