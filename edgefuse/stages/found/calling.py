"""A user's module as a stage is called: positional tensors of the spec's types in, the spec's outputs out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ModelSpec, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.bundle.wiring import width
from edgefuse.errors import ModelError
from edgefuse.stages.found.naming import Value, values_of
from edgefuse.stages.silence import at, first_words, quiet, user_line
from edgefuse.stages.stage import Feeds

_TYPES: Mapping[str, tuple[torch.dtype, ...]] = {
    "int32": (torch.int32, torch.int64, torch.bool),
    "float32": (torch.float32, torch.bool),
    "uint8": (torch.uint8, torch.bool),
}
"""What a tensor of a file may become for the module, the first that works: types of indices and masks fail loudly."""

_MAX_TRIALS = 64


@dataclasses.dataclass(frozen=True)
class Argument:
    """A keyword of `forward`, and the type that it wants; a value without one is not handed on."""

    keyword: str | None
    dtype: torch.dtype


class Called(nn.Module):
    """Call a module by keyword with positional tensors, and return the named outputs as a tuple.

    It stands for the module wherever a model with a spec is called: by the reference and by fingerprints.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, arguments: tuple[Argument, ...]) -> None:
        super().__init__()
        self.module = module
        self.spec = spec
        self.arguments = arguments
        self.outputs = tuple(output.name for output in spec.outputs)
        self.assets = dict(getattr(module, "assets", {}))

    def extra_repr(self) -> str:
        """Spell how the module is called: a part of cache keys."""
        return f"{self.arguments}, {self.outputs}"

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Take the tensors in the order of the arguments."""
        given = {
            argument.keyword: cast(tensor, argument.dtype)
            for argument, tensor in zip(self.arguments, tensors, strict=True)
            if argument.keyword is not None
        }
        return picked(self.module(**given), self.outputs)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in another type; a mask is true where it is not zero."""
    if tensor.dtype == dtype:
        return tensor
    return tensor != 0 if dtype == torch.bool else tensor.to(dtype)


def picked(result: object, names: Sequence[str]) -> Tensor | tuple[Tensor, ...]:
    """Return the named outputs from what a module returns: by name where it has names, else by position.

    Raises:
        ModelError: if one is missing or no tensor.
    """
    if isinstance(result, Tensor):
        values: dict[str, object] = {names[0]: result} if len(names) == 1 else {}
        offered = "one tensor"
    elif isinstance(result, Mapping) or dataclasses.is_dataclass(result) or hasattr(result, "_fields"):
        values = _named(result)
        offered = ", ".join(values)
    elif isinstance(result, tuple | list):
        values = dict(zip(names, result, strict=False))
        offered = f"{len(result)} values"
    else:
        values, offered = {}, type(result).__name__
    for name in names:
        if not isinstance(values.get(name), Tensor):
            raise ModelError(
                f"the model does not return the output '{name}' of its spec",
                got=offered,
                expected=f"tensors called {', '.join(names)}, or a tuple in this order",
                fix="name the outputs in the spec as the model does",
            )
    tensors = tuple(values[name] for name in names)
    return tensors if len(tensors) > 1 else tensors[0]  # type: ignore[return-value] # all were seen to be tensors


def _named(result: object) -> dict[str, object]:
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    fields = getattr(result, "_fields", None) or [field.name for field in dataclasses.fields(result)]  # type: ignore[arg-type]
    return {name: getattr(result, name) for name in fields}


def called(module: nn.Module, spec: ModelSpec, keywords: Mapping[str, str], feeds: Feeds) -> Called:
    """Return a module called by keyword with the types it wants.

    Args:
        module: the user's.
        spec: of it.
        keywords: by the key of a value.
        feeds: one input by port of the single stage, to try the types on.

    Raises:
        ModelError: if it takes no types, with what it said to the first ones, or does not return what the spec says.
    """
    values = values_of(spec)
    names = [keywords.get(value.source.key) for value in values]
    tensors = [torch.from_numpy(feeds[value.port].copy()) for value in values]
    failures: list[Exception] = []
    for types in _combinations(values, names):
        made = Called(module, spec, tuple(map(Argument, names, types)))
        try:
            with torch.no_grad(), quiet():
                made(*tensors)
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything; raised below
            failures.append(error)
        else:
            return made
    first = failures[0]
    takes = ", ".join(f"{name} {list(t.shape)}" for name, t in zip(names, tensors, strict=True) if name)
    raise ModelError(
        f"{type(module).__name__} failed when called with ({takes}){at(user_line(first))}", got=first_words(first)
    ) from first


def _combinations(values: Sequence[Value], names: Sequence[str | None]) -> Iterator[tuple[torch.dtype, ...]]:
    """Yield types for all values: those of the files, then the same other type for few, then for more of them."""
    options = [
        _TYPES[value.tensor.dtype] if name else _TYPES[value.tensor.dtype][:1]
        for value, name in zip(values, names, strict=True)
    ]
    every = product(*(range(len(option)) for option in options))
    ranked = sorted(every, key=lambda choice: (sum(map(bool, choice)), sum(choice)))[:_MAX_TRIALS]
    for choice in ranked:
        yield tuple(option[index] for option, index in zip(options, choice, strict=True))


def whole_spec(spec: ModelSpec, taken: Sequence[bool] | None = None) -> StageSpec:
    """Return the wiring of the single stage `model`.

    Args:
        spec: of the model.
        taken: which of its values the stage takes; all if None.
    """
    chosen = [value for number, value in enumerate(values_of(spec)) if taken is None or taken[number]]
    inputs = tuple(
        StageInput(
            tensor=TensorSpec(name=value.port, dtype=value.tensor.dtype, shape=value.tensor.shape), source=value.source
        )
        for value in chosen
    )
    outputs = tuple(
        StageOutput(tensor=TensorSpec(name=output.name, shape=(1, width(output))), kind="result")
        for output in spec.outputs
    )
    return StageSpec(name="model", role="model", inputs=inputs, outputs=outputs)
