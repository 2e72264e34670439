"""Attention found by what a forward pass computes, whatever its layers and attributes are called.

One pass under a mode follows which linear layer every query, key and value comes from and which one reads the result,
through views, scales, norms of heads and rotations. The gradient of a head by the output of such a layer says which
of its rows the head is made of: fused, split, interleaved.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse.prune.attention import FAILURES, Attention
from edgefuse.prune.hypotheses import Trial, hypotheses, steady
from edgefuse.prune.observation import Attended, Made, Observation, Scope, SizedCall, observe
from edgefuse.stages.stage import TorchStage

_MOST_TRIES = 48


@torch.enable_grad()
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
        attention = None
        with suppress(*FAILURES):  # what only looks like attention is left to the dependency graph
            attention = _attention(stage.module, seen, number, attended)
        if attention is not None and not any(attention.layers & set(names) for names in found):
            found[tuple(sorted(attention.layers))] = attention
    return list(found.values())


def _attention(module: nn.Module, seen: Sequence[Observation], number: int, attended: Attended) -> Attention | None:
    """Return what one product of weights and values is; None if it has no heads, or nothing linear around it."""
    first = seen[0]
    made = {one.name: one for tensor in attended.sources for one in first.made_by(tensor)}
    reader = first.reader(attended)
    heads = attended.query.shape[-3] if attended.query.dim() > 3 else attended.query.shape[0]
    if reader is None or not made or attended.query.dim() < 3:
        return None
    home = _home(first, attended, [*made.values(), reader])
    others = [o for o in seen if len(o.attended) == len(first.attended) and _running(o, number, home.name)]
    calls = [_calls(o, number, home.name) for o in others]
    found = _rows(attended, [first.made_by(tensor) for tensor in attended.sources])
    columns = None if found is None else _columns(attended, reader, found[0])
    if found is None or columns is None:
        # What only looks like heads is left to the dependency graph: a batch of one is no head.
        return None if heads < 2 else _stuck(home.name, heads, sorted(made), reader.name, calls)
    attention = Attention(home.name, found[0], found[1], reader.name, columns)
    return _tried(module, attention, calls, [_scope(o, number, home.name).given for o in others])


def _stuck(home: str, heads: int, makers: Sequence[str], out: str, calls: Sequence[dict[int, SizedCall]]) -> Attention:
    """Return an attention no head of which can be removed, as they share what makes or reads them."""
    sizes = {number: tuple(steady(calls, number)) for number in calls[0]}
    reason = "its heads do not have rows and columns of linear layers to themselves"
    return Attention(home, heads, dict.fromkeys(makers, ()), out, (), sizes, _kept(home, heads, reason))


def _kept(home: str, heads: int, reason: str) -> str:
    return f"'{home or 'the stage'}' keeps its {heads} heads: {reason}"


def _rows(attended: Attended, sources: Sequence[Sequence[Made]]) -> tuple[int, dict[str, tuple[Tensor, ...]]] | None:
    """Return the number of heads, and by layer the rows that each head is made of."""
    tensors = attended.sources
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
        if all(sources) and all(_disjoint(rows) for rows in parts.values()):
            return heads, parts
    return None


def _touched(part: Tensor, output: Tensor) -> Tensor:
    """Say of each channel of a layer's output whether a part of a tensor depends on it, bool [channels]."""
    if not part.requires_grad:
        return torch.zeros(output.shape[-1], dtype=torch.bool)
    signs = torch.linspace(1, 2, part.numel()).reshape(part.shape)
    (gradient,) = torch.autograd.grad((part * signs).sum(), output, retain_graph=True, allow_unused=True)
    if gradient is None:
        return torch.zeros(output.shape[-1], dtype=torch.bool)
    return gradient.reshape(-1, gradient.shape[-1]).ne(0).any(0)


def _disjoint(parts: Sequence[Tensor]) -> bool:
    """Say whether parts are as long as each other, and share nothing."""
    whole = torch.cat(list(parts))
    return len(parts[0]) > 0 and len({len(part) for part in parts}) == 1 and len(torch.unique(whole)) == len(whole)


def _columns(attended: Attended, reader: Made, heads: int) -> tuple[Tensor, ...] | None:
    """Return the columns of the reading layer that each head comes to, if nothing but views lies between."""
    if not reader.input.requires_grad:
        return None
    codes = torch.arange(1.0, reader.input.shape[-1] + 1)
    total = (reader.input * codes).sum()
    (gradient,) = torch.autograd.grad(total, attended.result, retain_graph=True, allow_unused=True)
    if gradient is None:
        return None
    for axis in (-3, -2) if gradient.dim() > 3 else (0,):
        if gradient.shape[axis] == heads:
            parts = [torch.unique(gradient.select(axis, head)) for head in range(heads)]
            whole = torch.cat(parts)
            if _disjoint(parts) and bool((whole == whole.round()).all()) and whole.min() >= 1:
                return tuple(part.long() - 1 for part in parts)
    return None


def _home(seen: Observation, attended: Attended, layers: Sequence[Made]) -> Scope:
    """Return the innermost running module that all of an attention lies in."""
    common = attended.scopes
    for layer in layers:
        common = tuple(scope for scope in common if scope in layer.scopes)
    for call in _between(seen, attended):
        common = tuple(scope for scope in common if scope in call.numbers)
    return common[-1]


def _between(seen: Observation, attended: Attended) -> list[SizedCall]:
    """Return the calls with sizes that work on what an attention is made of, or on its result."""
    made = {made for tensor in attended.sources for made in seen.made_by(tensor)}
    return [call for call in seen.sized if call.marks & made or attended.number in call.marks]


def _running(seen: Observation, number: int, name: str) -> bool:
    return any(scope.name == name for scope in seen.attended[number].scopes)


def _scope(seen: Observation, number: int, name: str) -> Scope:
    return next(scope for scope in seen.attended[number].scopes if scope.name == name)


def _calls(seen: Observation, number: int, name: str) -> dict[int, SizedCall]:
    """Return those calls by their number in the home's forward pass."""
    home = _scope(seen, number, name)
    return {call.numbers[home]: call for call in _between(seen, seen.attended[number]) if home in call.numbers}


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
        trial = Trial(whole, inside, givens)
        for sizes in itertools.islice(hypotheses(calls, attention.heads), _MOST_TRIES):
            failure = trial.failure(sizes)
            if not failure:
                return attention.but(sizes)
            reason = reason or failure  # what the likely sizes lead to says most
    sizes = {number: tuple(steady(calls, number)) for number in calls[0]}
    return attention.but(sizes, _kept(attention.home, attention.heads, reason))


def _shared(module: nn.Module, names: set[str]) -> str:
    """Say which of some layers shares its weights with another."""
    counts: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    twice = [name for name in sorted(names) if counts[id(module.get_submodule(name).weight)] > 1]
    return f"'{twice[0]}' shares its weights with another layer" if twice else ""
