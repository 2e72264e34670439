"""The stages of a module that makes tokens and that nobody took apart: all before its decoder is found.

The module's `forward` returns what `Decoder.prepare` takes, and its attribute `decoder` is the `Decoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ArrayOutput, ModelSpec, TokensOutput
from edgefuse.errors import ModelError
from edgefuse.models.decoder import Decoder, decoded
from edgefuse.stages.decoder import Given, named
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import known, step_stage
from edgefuse.stages.found.calling import Argument, handed_on, whole_spec
from edgefuse.stages.found.naming import keywords, values_of
from edgefuse.stages.found.record import Found
from edgefuse.stages.silence import first_words
from edgefuse.stages.stage import InputValues, TorchStage, outputs_of
from edgefuse.stages.typed import TYPES, WHOLE, first_that_works


class Generating(nn.Module):
    """Call a module that makes tokens with positional tensors, as files are, and then the tokens that are right.

    The tensors are those of `values_of`, in its order; a module that takes no lengths or no mask is not handed them.

    Args:
        module: with a `decoder`.
        spec: with the types of files.
        arguments: of `forward`, one for each tensor.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, arguments: Sequence[Argument]) -> None:
        super().__init__()
        self.module = module
        self.spec = spec
        self.arguments = tuple(arguments)
        self.assets = dict(getattr(module, "assets", {}))

    def extra_repr(self) -> str:
        """Spell how the module is called: a part of cache keys."""
        return f"{self.arguments}, {self.spec.outputs[0]}"

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the logits of all steps, [batch, steps, vocabulary]; see `edgefuse.models.decoder.decoded`."""
        *taken, tokens = tensors
        fused = outputs_of(self.module(**handed_on(self.arguments, taken)))
        output: TokensOutput = self.spec.outputs[0]  # type: ignore[assignment] # `generates` says so
        decoder: Any = self.module.decoder
        return decoded(decoder, output, fused, tokens)

    def of(self, values: Mapping[str, Tensor], tokens: Tensor) -> tuple[Tensor, ...]:
        """Return the arguments of a call, from values by key and the tokens that are right, which may be none."""
        return *(values[value.source.key] for value in values_of(self.spec)), tokens


def generates(module: nn.Module, spec: ModelSpec) -> bool:
    """Tell whether a module makes tokens: it has a decoder, and its only output says where a text starts and ends."""
    output = spec.outputs[0] if len(spec.outputs) == 1 else None
    if not isinstance(getattr(module, "decoder", None), Decoder) or not isinstance(output, TokensOutput):
        return False
    return output.start is not None and output.end is not None


def find_generating(
    module: nn.Module,
    spec: ModelSpec,
    values: Sequence[InputValues],
    find: Callable[[nn.Module, ModelSpec, Sequence[InputValues]], Found],
) -> Found:
    """Take a module that makes tokens apart.

    Args:
        module: in eval mode, with a `decoder`.
        spec: of it, with the types of files.
        values: what its inputs look like.
        find: finds the stages of any other module.

    Raises:
        ModelError: if `forward` does not name its inputs, or the module or its decoder break their contract.
    """
    names = keywords(module, spec)
    if names is None:
        raise ModelError(
            f"the forward of {type(module).__name__}, which has a decoder, does not name its inputs",
            expected=f"arguments called {', '.join(modality.name for modality in spec.modalities)}",
        )
    decoder: Decoder = module.decoder  # type: ignore[assignment] # `generates` says so
    arguments, made = _tried(module, decoder, spec, names, values)
    shapes = {name: ArrayOutput(name=name, shape=tuple(value.shape[1:])) for name, value in made.items()}
    asked = msgspec.structs.replace(spec, outputs=tuple(shapes.values()), metric="")
    found = find(_body(module, decoder, tuple(shapes)), asked, values)
    stages = tuple(replace(stage, spec=_giving_features(stage)) for stage in found.stages)
    given: Given = {
        port.tensor.name: (stage.spec.name, port.tensor)
        for stage in stages
        for port in stage.spec.outputs
        if port.tensor.name in shapes
    }
    whole = msgspec.structs.replace(found.spec, outputs=spec.outputs)
    last = step_stage(decoder, given, whole, stages)
    return replace(found, module=Generating(module, whole, arguments).eval(), spec=whole, stages=(*stages, last))


def _tried(
    module: nn.Module, decoder: Decoder, spec: ModelSpec, names: Mapping[str, str], values: Sequence[InputValues]
) -> tuple[list[Argument], dict[str, Tensor]]:
    """Return how a module wants to be called, and what its decoder prepares of a generated input."""
    feeds = next(example_feeds(known(TorchStage(whole_spec(spec), module), values)))
    taken = values_of(spec)
    tensors = [torch.from_numpy(feeds[value.port].copy()) for value in taken]
    declared = [str(value.tensor.dtype) for value in taken]
    options = [TYPES[dtype] if dtype in WHOLE else TYPES[dtype][:1] for dtype in declared]

    def arguments(types: Sequence[torch.dtype]) -> list[Argument]:
        return [Argument(names.get(value.source.key), dtype) for value, dtype in zip(taken, types, strict=True)]

    made: dict[str, Tensor] = {}

    def called(types: Sequence[torch.dtype]) -> None:
        nonlocal made
        with torch.inference_mode():
            made = named(decoder, outputs_of(module(**handed_on(arguments(types), tensors))))

    try:
        types = first_that_works(options, called)
    except ModelError:
        raise
    except Exception as error:  # a user's own code may raise anything
        what = f"{type(module).__name__}, which has a decoder, fails on inputs that its spec allows"
        raise ModelError(what, got=first_words(error), expected="what its decoder prepares steps from") from error
    return arguments(types), made


def _body(module: nn.Module, decoder: Decoder, names: tuple[str, ...]) -> nn.Module:
    """Return a module that is called as the user's is, and gives what is computed once per input."""
    body = nn.Module()
    body.module, body.decoder = module, decoder

    @wraps(module.forward)
    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        made = decoder.prepare(*outputs_of(module(*args, **kwargs)))
        return tuple(made[name] for name in names)

    body.forward = forward
    return body.eval()


def _giving_features(stage: TorchStage) -> Any:
    outputs = tuple(
        msgspec.structs.replace(port, kind="feature") if port.kind == "result" else port for port in stage.spec.outputs
    )
    return msgspec.structs.replace(stage.spec, outputs=outputs)
