"""A user's module as a stage is called: positional tensors of the spec's types in, the spec's outputs out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ModelSpec, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.errors import ModelError
from edgefuse.stages.found.naming import values_of
from edgefuse.stages.silence import at, first_words, user_line
from edgefuse.stages.stage import Feeds, TorchStage
from edgefuse.stages.typed import TYPES, cast, first_that_works

_NONE: Mapping[str, str] = MappingProxyType({})


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
        return picked(self.module(**handed_on(self.arguments, tensors)), self.outputs)


def handed_on(arguments: Sequence[Argument], tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the keyword arguments that tensors become, in the types that are wanted."""
    return {
        argument.keyword: cast(tensor, argument.dtype)
        for argument, tensor in zip(arguments, tensors, strict=True)
        if argument.keyword is not None
    }


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


def called(
    module: nn.Module, spec: ModelSpec, keywords: Mapping[str, str], feeds: Feeds, wanted: Mapping[str, str] = _NONE
) -> Called:
    """Return a module called by keyword with the types it wants.

    Args:
        module: the user's.
        spec: of it.
        keywords: by the key of a value.
        feeds: one input by port of the single stage, to try the types on.
        wanted: the types that the user's spec has, by key; those of files by default.

    Raises:
        ModelError: if it takes no types, with what it said to the first ones, or does not return what the spec says.
    """
    values = values_of(spec)
    names = [keywords.get(value.source.key) for value in values]
    tensors = [torch.from_numpy(feeds[value.port].copy()) for value in values]

    def with_types(types: tuple[torch.dtype, ...]) -> Called:
        return Called(module, spec, tuple(map(Argument, names, types)))

    options = [TYPES[wanted.get(value.source.key, value.tensor.dtype)] for value in values]
    options = [types if name else types[:1] for types, name in zip(options, names, strict=True)]
    try:
        return with_types(first_that_works(options, lambda types: with_types(types)(*tensors)))
    except ModelError:
        raise
    except Exception as error:  # of the user's own code
        takes = ", ".join(f"{name} {list(t.shape)}" for name, t in zip(names, tensors, strict=True) if name)
        raise ModelError(
            f"{type(module).__name__} failed when called with ({takes}){at(user_line(error))}", got=first_words(error)
        ) from error


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
        StageOutput(tensor=TensorSpec(name=output.name, shape=(1, *output.shape)), kind="result")
        for output in spec.outputs
    )
    return StageSpec(name="model", role="model", inputs=inputs, outputs=outputs)


def whole_stage(module: Called) -> TorchStage:
    """Return all of a module as the single stage `model`, of the values that are handed on to it."""
    taken = [argument.keyword is not None for argument in module.arguments]
    arguments = tuple(argument for argument in module.arguments if argument.keyword is not None)
    return TorchStage(whole_spec(module.spec, taken), Called(module.module, module.spec, arguments).eval())
