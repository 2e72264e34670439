"""Under which names a module's `forward` takes what a spec describes."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from edgefuse.bundle.spec import ModelSpec, Source, TensorSpec
from edgefuse.errors import ModelError


@dataclass(frozen=True)
class Value:
    """A value that a model may take from outside.

    Attributes:
        source: where it comes from.
        port: how the single stage `model` calls it.
        tensor: its name within its modality, type and shape.
    """

    source: Source
    port: str
    tensor: TensorSpec


def values_of(spec: ModelSpec) -> tuple[Value, ...]:
    """Return all values in the order of a positional call: tensors, lengths, then `present` if any may be absent."""
    return (*_tensors(spec), *_lengths(spec), *_present(spec))


def keywords(module: nn.Module, spec: ModelSpec) -> dict[str, str] | None:
    """Return the keyword of `forward` for each value that it takes, by the value's key; None if it takes positions.

    A tensor goes by `<modality>_<tensor>`, by its modality's name where that has one tensor, or by its own name where
    no other modality has it; whichever `forward` has first. A length goes by `<modality>_length` or, if no other
    modality has one, `length`; the mask by `present`. Lengths and mask are left out where `forward` does not take them.
    Where it takes keywords of any name and none by name, tensors go by their modality's name or, of several, their own:
    `takes_any`.

    Raises:
        ModelError: if `forward` names some tensors of the spec and others not, or wants what the spec does not have.
    """
    parameters = inspect.signature(module.forward).parameters
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if takes_any(module):
        return {value.source.key: _usual(value, spec) for value in _tensors(spec)}
    found: dict[str, str] = {}
    missing: list[str] = []
    for value in values_of(spec):
        names = list(candidates(value, spec))
        name = next((name for name in names if name in named and name not in found.values()), None)
        if name is not None:
            found[value.source.key] = name
        elif value.source.kind == "modality":
            missing.append(" or ".join(names))
    wanted = [name for name, p in named.items() if p.default is p.empty and name not in found.values()]
    if not missing and not wanted:
        return found
    if takes_positions(module) or _fits_positions(named, spec):
        return None
    if len(wanted) == 1 and not found:
        raise _one_argument(module, wanted[0], [_usual(value, spec) for value in _tensors(spec)])
    if not found:
        return None
    raise ModelError(
        f"the inputs of {type(module).__name__}.forward do not match the spec '{spec.name}'",
        got=", ".join(wanted or named),
        expected=", ".join(missing) or f"only {', '.join(found.values())}",
        fix="name the modalities' tensors as the arguments of forward, or give the other arguments a default",
    )


def _one_argument(module: nn.Module, argument: str, names: Sequence[str]) -> ModelError:
    held = _held(inspect.signature(module.forward).parameters[argument].annotation, names)
    return ModelError(
        f"{type(module).__name__}.forward takes all of its inputs as one argument",
        got=argument,
        expected=f"an argument for each tensor of the spec: {', '.join(names)}",
        fix=f"hand on a module around it: def forward(self, {', '.join(names)}): return self.model({held})",
    )


def _held(annotation: Any, names: Sequence[str]) -> str:
    """Spell tensors as an argument that holds all of them, by what is written about it; both ways where nothing is."""
    in_order = f"[{', '.join(names)}]"
    by_name = "{" + ", ".join(f'"{name}": {name}' for name in names) + "}"
    if annotation is inspect.Parameter.empty:
        return f"{by_name}), or self.model({in_order}"
    kind = str(annotation if isinstance(annotation, str) else getattr(annotation, "__origin__", annotation))
    ordered = re.search(r"\b(list|tuple|sequence|iterable)\b", kind.partition("[")[0], re.IGNORECASE)
    return in_order if ordered else by_name


def takes_any(module: nn.Module) -> bool:
    """Tell whether `forward` takes keywords of any name and no other, but for positions, as a wrapper's does."""
    kinds = {parameter.kind for parameter in inspect.signature(module.forward).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds <= {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


def takes_positions(module: nn.Module) -> bool:
    """Tell whether `forward` takes any number of positions."""
    return any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile`, or a module for several devices, stands for: it computes the same."""
    while True:
        parallel = isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = module.module if parallel else getattr(module, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _fits_positions(named: dict[str, inspect.Parameter], spec: ModelSpec) -> bool:
    """Tell whether a positional call with all values would be possible."""
    positions = [p for p in named.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = sum(p.default is p.empty for p in named.values())
    return needed <= len(values_of(spec)) <= len(positions)


def _usual(value: Value, spec: ModelSpec) -> str:
    """Return the shortest name that people give a tensor: its modality's, its own, or both."""
    longest, *others = candidates(value, spec)
    return others[0] if others else longest


def candidates(value: Value, spec: ModelSpec) -> Iterator[str]:
    """Yield the names that a value may go by, the longest first: see `keywords`."""
    source = value.source
    if source.kind == "present":
        yield "present"
    elif source.kind == "length":
        yield f"{source.owner}_length"
        if sum(modality.length for modality in spec.modalities) == 1:
            yield "length"
    else:
        yield f"{source.owner}_{source.tensor}"
        if len(spec.modality(source.owner).tensors) == 1:
            yield source.owner
        counts = Counter(tensor.name for modality in spec.modalities for tensor in modality.tensors)
        if counts[source.tensor] == 1:
            yield source.tensor


def _tensors(spec: ModelSpec) -> Iterator[Value]:
    for modality in spec.modalities:
        for tensor in modality.tensors:
            source = Source(kind="modality", owner=modality.name, tensor=tensor.name)
            yield Value(source, f"{modality.name}_{tensor.name}", tensor)


def _lengths(spec: ModelSpec) -> Iterator[Value]:
    for modality in spec.modalities:
        if modality.length:
            tensor = TensorSpec(name="length", dtype="int32", shape=(1,))
            yield Value(Source(kind="length", owner=modality.name), f"{modality.name}_length", tensor)


def _present(spec: ModelSpec) -> Iterator[Value]:
    if any(modality.optional for modality in spec.modalities):
        tensor = TensorSpec(name="present", shape=(1, len(spec.modalities)))
        yield Value(Source(kind="present"), "present", tensor)
