"""The stages of a model that makes tokens: what is computed once per input, and the step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from edgefuse.bundle.spec import Source, StageInput, StageOutput, StageSpec, TensorSpec, TokensOutput, spelled
from edgefuse.errors import ModelError, cited
from edgefuse.graph.decoding import step_ports, steps
from edgefuse.models.decoder import Decoder
from edgefuse.stages.running import run_torch, tensors_of
from edgefuse.stages.stage import Array, Feeds, InputValues, TorchStage, outputs_of

NEXT = "next_"
"""Stands before the name of a state where a step gives it."""
_TAKEN = ("token", "position")


class Prepared(nn.Module):
    """Fusion, and what a decoder makes of it once per input: a tensor under each of `names`."""

    def __init__(self, fusion: nn.Module, decoder: Decoder, names: tuple[str, ...]) -> None:
        super().__init__()
        self.fusion = fusion
        self.decoder = decoder
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Take what fusion takes."""
        made = self.decoder.prepare(*outputs_of(self.fusion(*tensors)))
        given = tuple(made[name] for name in self.names)
        return given if len(given) > 1 else given[0]


class Step(nn.Module):
    """A decoder with positional values, in the order of `names`; states come out in the order of `decoder.states`."""

    def __init__(self, decoder: Decoder, names: tuple[str, ...], *, counts: bool = True) -> None:
        super().__init__()
        self.decoder = decoder
        self.names = names
        self.counts = counts

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Take a token, its position if the decoder counts, and the values."""
        token, *others = tensors
        position, *values = others if self.counts else (torch.zeros_like(token), *others)
        made = self.decoder(token, position, dict(zip(self.names, values, strict=True)))
        known = self.decoder.states
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping) and {*known} <= {*made[1]}):
            names = ", ".join(known) or "none"
            raise ModelError(
                f"a step of {type(self.decoder).__name__} does not return what it should",
                got=", ".join(made[1])
                if isinstance(made, tuple) and isinstance(made[-1], dict)
                else type(made).__name__,
                expected=f"the logits, and a dict with the next value of every state ({names})",
            )
        return made[0], *(made[1][name] for name in known)


Given: TypeAlias = Mapping[str, tuple[str, TensorSpec]]
"""What is computed once per input, by name: the stage that gives it, and its tensor."""


def prepared(fusion: nn.Module, decoder: Decoder, feeds: Sequence[Tensor]) -> Prepared:
    """Return what runs once per input, with the part of the decoder that it needs.

    Args:
        fusion: the module of the fusion stage.
        decoder: of the model.
        feeds: of fusion.

    Raises:
        ModelError: as of `named`.
    """
    with torch.inference_mode(), _recorded() as used:
        made = named(decoder, outputs_of(fusion(*feeds)))
    return Prepared(fusion, _part(decoder, used), tuple(made)).eval()


def named(decoder: Decoder, fused: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what a decoder prepares.

    Args:
        decoder: of a model.
        fused: what fusion returned.

    Raises:
        ModelError: if `prepare` fails, or gives nothing that a step could read.
    """
    try:
        made: Any = decoder.prepare(*fused)
    except Exception as error:  # a user's own code may raise anything
        raise ModelError(f"{type(decoder).__name__}.prepare fails on what fusion returns", got=cited(error)) from error
    if not isinstance(made, dict) or not made or not all(isinstance(value, Tensor) for value in made.values()):
        raise ModelError(
            f"{type(decoder).__name__}.prepare gives nothing that a step could read",
            got=type(made).__name__ if not isinstance(made, dict) else ", ".join(made) or "an empty dict",
            expected="a dict of tensors by name",
        )
    for name in {**made, **decoder.states}:
        if not name.isidentifier() or name in _TAKEN or name.startswith(NEXT):
            expected = f"an identifier other than {' and '.join(_TAKEN)}, and not '{NEXT}…'"
            raise ModelError(f"a value of {type(decoder).__name__} has an unusable name", got=name, expected=expected)
    return made


def step_spec(decoder: Decoder, given: Given, output: TokensOutput) -> StageSpec:
    """Return the wiring of a decoder's step.

    Args:
        decoder: of the model.
        given: what is computed once per input.
        output: of the model.

    Raises:
        ModelError: if the first value of a state has another shape than the state.
    """
    for name, shape in decoder.states.items():
        if not (isinstance(shape, tuple) and shape and all(isinstance(size, int) and size > 0 for size in shape)):
            what = f"the state '{name}' of {type(decoder).__name__} has no shape"
            raise ModelError(what, got=repr(shape), expected="a tuple of sizes of one item, without the batch: (256,)")
    states = {name: TensorSpec(name=name, shape=(1, *shape)) for name, shape in decoder.states.items()}
    for name in (name for name in states if name in given and given[name][1].shape != states[name].shape):
        got, expected = spelled(given[name][1].shape), spelled(states[name].shape)
        what = f"the first value of the state '{name}' has another shape than the state"
        raise ModelError(what, got=got, expected=expected, fix="correct `states`, or what `prepare` returns")

    def source(name: str) -> Source:
        return Source(kind="stage", owner=given[name][0], tensor=name)

    def number(kind: Any) -> StageInput:
        return StageInput(tensor=TensorSpec(name=kind, dtype="int32", shape=(1,)), source=Source(kind=kind))

    def state(tensor: TensorSpec) -> StageInput:
        return StageInput(tensor=tensor, source=Source(kind="state", owner="decoder", tensor=NEXT + tensor.name))

    def following(tensor: TensorSpec) -> StageOutput:
        initial = source(tensor.name) if tensor.name in given else None
        return StageOutput(
            tensor=TensorSpec(name=NEXT + tensor.name, shape=tensor.shape), kind="state", initial=initial
        )

    context = [StageInput(tensor=given[name][1], source=source(name)) for name in given if name not in states]
    logits = TensorSpec(name=output.name, shape=(1, len(output.labels)))
    return StageSpec(
        name="decoder",
        role="decoder",
        inputs=(number("token"), number("position"), *context, *map(state, states.values())),
        outputs=(StageOutput(tensor=logits, kind="result"), *map(following, states.values())),
    )


def step(decoder: Decoder, spec: StageSpec, output: TokensOutput) -> TorchStage:
    """Return the stage of a decoder's step, whose feeds can be generated.

    Args:
        decoder: of the model.
        spec: of the step.
        output: of the model.
    """
    names = tuple(port.tensor.name for port in spec.inputs[2:])
    return TorchStage(spec, Step(decoder, names).eval(), values=of_steps(output))


def needed(stage: TorchStage, feeds: Feeds) -> TorchStage:
    """Return the stage of a step with what it needs of the decoder, and no position if it asks for none."""
    made: Step = stage.module  # type: ignore[assignment] # as `step` made it
    tensors = tensors_of(stage.spec, feeds)
    with torch.inference_mode(), _recorded() as used:
        made(*tensors)
    counts = id(tensors[1]) in used
    inputs = [port for port in stage.spec.inputs if counts or port.source.kind != "position"]
    spec = msgspec.structs.replace(stage.spec, inputs=tuple(inputs))
    return replace(stage, spec=spec, module=Step(_part(made.decoder, used), made.names, counts=counts).eval())


def of_steps(output: TokensOutput) -> tuple[InputValues, ...]:
    """Return what the token and the position of a step look like, for generated ones."""

    def whole(key: str, most: int) -> InputValues:
        middle, width = (most / 2,), (max(most, 1) / 4,)
        return InputValues(key, low=(0.0,), high=(most,), mean=middle, deviation=width, whole=True, steps=(1, 1))

    return whole("token", len(output.labels) - 1), whole("position", output.steps - 1)


def nth_step(stage: TorchStage, feeds: Feeds, values: Callable[[str, int], Array], n: int) -> Feeds:
    """Return the feeds of the n-th step, from 0, after as many were run in torch on generated tokens.

    Args:
        stage: of a step.
        feeds: what does not change, and the first value of each state, by port.
        values: generates the token of a step.
        n: the number of the step.
    """
    ports = step_ports(stage.spec)

    def following(at: int, made: Mapping[str, Array]) -> Array | None:
        return values("token", at + 1) if at < n else None

    def run(one: dict[str, Array]) -> dict[str, Array]:
        return run_torch(stage, one)

    last: Feeds = feeds
    for last, _ in steps(ports, run, feeds, values("token", 0), following, lambda at: np.array([at], np.int32)):
        last = dict(last)
    return last


class _Recorder(TorchFunctionMode):
    """Keeps which tensors functions of torch were called with."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[int] = set()

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.used |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return function(*args, **kwargs)


@contextmanager
def _recorded() -> Iterator[set[int]]:
    with _Recorder() as recorder:
        yield recorder.used


def _part(module: Any, used: set[int]) -> Any:
    """Return a module without the submodules of whose parameters none was used; it shares all else."""
    made = copy.copy(module)
    made._modules = {
        name: _part(child, used)
        for name, child in module._modules.items()
        if child is None or not (own := list(child.parameters())) or any(id(one) in used for one in own)
    }
    return made
