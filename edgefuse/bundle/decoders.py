"""Check what a manifest says of a decoder: a stage that is run once per token."""

from __future__ import annotations

from collections.abc import Sequence

from edgefuse.bundle.spec import ModelSpec, Source, StageOutput, StageSpec, TokensOutput
from edgefuse.bundle.wiring import Form, form_of, invalid, require

_COUNTED = ("token", "position")
_NUMBER: Form = ("int32", (1,))


def check_decoders(model: ModelSpec, stages: Sequence[StageSpec]) -> None:
    """Check the stage that makes tokens, if there is one: `BundleError` if its wiring is not possible.

    It is the last stage, and the only one that takes a token. It gives the logits of one step of the model's only
    output, which says with which token a text starts and ends. A state begins as zeros, or what an earlier stage gives.
    """
    started = [output.name for output in model.outputs if getattr(output, "start", None) is not None]
    if started and not any(stage.role == "decoder" for stage in stages):
        what = f"the output '{started[0]}' starts with a token, and no stage is a decoder"
        raise invalid(what, expected="a decoder, or an output without a `start`")
    made: dict[Source, Form] = {}
    for stage in stages:
        counted = [port for port in stage.inputs if port.source.kind in _COUNTED]
        where = f"the stage '{stage.name}'"
        if stage.role != "decoder":
            require(not counted, f"{where} takes a token or a position, and is no decoder", got=stage.role)
            require(all(port.initial is None for port in stage.outputs), f"{where} gives a first value to a state")
            made |= {_source(stage, port): form_of(port.tensor) for port in stage.outputs if port.kind != "state"}
            continue
        require(stage is stages[-1], f"{where} is a decoder, and not the last stage")
        kinds = [port.source.kind for port in counted]
        once = kinds.count("token") == 1 and kinds.count("position") <= 1
        require(once, f"{where} does not take one token and at most one position", got=", ".join(kinds) or "neither")
        for port in counted:
            name, found = port.tensor.name, form_of(port.tensor)
            require(found == _NUMBER, f"the input '{name}' of {where} is no number", got=found, expected=_NUMBER)
        _check_output(model, stage)
        for one in (port for port in stage.outputs if port.initial is not None):
            given, expected = made.get(one.initial), form_of(one.tensor)  # type: ignore[arg-type] # not None
            what = f"the state '{one.tensor.name}' of {where} begins with what is not of its type and shape"
            require(given == expected, what, got=given or "nothing", expected=expected)


def _check_output(model: ModelSpec, stage: StageSpec) -> None:
    """Check that a decoder gives the one output of the model, and features to nobody, and that its ends are tokens."""
    where = f"the decoder '{stage.name}'"
    kinds = [port.kind for port in stage.outputs if port.kind != "state"]
    if kinds != ["result"] or len(model.outputs) != 1 or not isinstance(model.outputs[0], TokensOutput):
        raise invalid(f"{where} does not give tokens, and nothing else", got=", ".join(kinds), expected="one result")
    output = model.outputs[0]
    for name, token in (("start", output.start), ("end", output.end)):
        if not output.has(token):
            expected = f"a token from 0 to {len(output.labels) - 1}"
            raise invalid(f"the {name} of what {where} makes is no token", got=token, expected=expected)


def _source(stage: StageSpec, port: StageOutput) -> Source:
    return Source(kind="stage", owner=stage.name, tensor=port.tensor.name)
