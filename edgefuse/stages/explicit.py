"""Take a torch model apart into stages, following its spec."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import (
    Modality,
    ModelSpec,
    Role,
    Source,
    StageInput,
    StageOutput,
    StageSpec,
    TensorSpec,
    in_files,
    spelled,
)
from edgefuse.errors import ModelError
from edgefuse.models.decoder import Decoder
from edgefuse.models.fusion import FusionModel
from edgefuse.stages.decoder import Given, needed, prepared, step, step_spec
from edgefuse.stages.examples import example_feeds, masks_of
from edgefuse.stages.running import tensors_of
from edgefuse.stages.shapes import checked_whole, feeds_of_chain, output_shapes
from edgefuse.stages.stage import InputValues, TorchStage, with_twins
from edgefuse.stages.typed import TYPES, WHOLE, Typed, first_that_works
from edgefuse.stages.values import with_values

_Module = TypeVar("_Module", bound=nn.Module)


def split(model: nn.Module, values: Sequence[InputValues] = ()) -> tuple[TorchStage, ...]:
    """Take a model apart into stages, in eval mode and in an order in which they can run.

    A `FusionModel` becomes the stages `<modality>_frontend`, `<modality>_encoder` and `fusion`. Any other module with a
    `spec` becomes the one stage `model`, called with all modality tensors in order, then the lengths, then `present` if
    any modality is optional. Shapes are found by running torch on generated inputs. A model in training mode is copied,
    so that the caller's stays as it is.

    Args:
        model: to take apart.
        values: what its inputs look like, for generated ones that look alike, as far as that is known.

    Raises:
        ModelError: if the model has no spec, raises, or its tensors do not match the spec.
    """
    spec = getattr(model, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise undescribed(model, spec)
    return apart(as_called(model, spec, values), values)


def undescribed(model: nn.Module, spec: object) -> ModelError:
    """Return what is to be said of a model without a spec.

    Args:
        model: the user's.
        spec: what it has instead.
    """
    return ModelError(
        f"the model {type(model).__name__} does not describe itself",
        got=f"spec = {type(spec).__name__}",
        expected="an attribute `spec` of type ModelSpec",
        fix="build an edgefuse FusionModel, or set `model.spec`",
    )


def as_called(model: nn.Module, spec: ModelSpec, values: Sequence[InputValues]) -> nn.Module:
    """Return a model in eval mode that takes what files hold, with the spec that says so: the model itself if it does.

    Args:
        model: the user's.
        spec: of it, as the user wrote it.
        values: what its inputs look like.

    Raises:
        ModelError: if the spec cannot be used.
    """
    check_spec(spec)
    if any(module.training for module in model.modules()):
        model = copy.deepcopy(model).eval()
    held = in_files(spec)
    if not isinstance(model, FusionModel):
        module = _typed(known(TorchStage(_whole_spec(held), model), values), _declared(spec.modalities))
        if module is model and getattr(model, "spec", None) == held:
            return model
        made = copy.copy(module)  # shares all parameters
        made.spec, made.assets = held, dict(getattr(model, "assets", {}))  # type: ignore[assignment] # any attributes
        return made
    typed = {
        modality.name: _typed_encoder(model.encoders[modality.name], modality, declared, values)
        for modality, declared in zip(held.modalities, spec.modalities, strict=True)
    }
    if spec == held and all(typed[name] is encoder for name, encoder in model.encoders.items()):
        return model
    fused = _with_parts(model, encoders=nn.ModuleDict(typed))
    fused.spec = held
    return fused


def _typed_encoder(
    encoder: nn.Module, modality: Modality, declared: Modality, values: Sequence[InputValues]
) -> nn.Module:
    """Return an encoder that takes the types of files; its frontend does, if it has one."""
    inputs, frontend = _modality_inputs(modality), getattr(encoder, "frontend", None)
    if isinstance(frontend, nn.Module):
        draft = _draft(modality, "frontend", inputs)
        made = _typed(known(TorchStage(draft, frontend), values), _declared([declared]))
        return encoder if made is frontend else _with_parts(encoder, frontend=made)
    lengths = (_length_input(modality),) if modality.length else ()
    draft = _draft(modality, "encoder", (*inputs, *lengths))
    return _typed(known(TorchStage(draft, encoder), values), _declared([declared]))


def _declared(modalities: Sequence[Modality]) -> list[str]:
    return [str(tensor.dtype) for modality in modalities for tensor in modality.tensors]


def _typed(stage: TorchStage, declared: Sequence[str]) -> nn.Module:
    """Return a stage's module, or what calls it with other types if only that works or the spec says so.

    Args:
        stage: whose first inputs are the tensors of the spec.
        declared: their types in it.
    """
    options = [TYPES[dtype] if dtype in WHOLE else TYPES[dtype][:1] for dtype in declared]
    held = tuple(TYPES[str(port.tensor.dtype)][0] for port in stage.spec.inputs[: len(options)])
    if all(len(types) == 1 for types in options):
        return stage.module
    feeds = next(example_feeds(stage))
    tensors = [torch.from_numpy(feeds[port.tensor.name]) for port in stage.spec.inputs]
    try:
        types = first_that_works(options, lambda types: Typed(stage.module, types)(*tensors))
    except Exception:  # noqa: BLE001 - whatever the user's code raises is raised again when its shapes are looked for
        return stage.module
    return stage.module if types == held else Typed(stage.module, types).eval()


def _with_parts(module: _Module, **parts: nn.Module) -> _Module:
    """Return a module with other parts, which shares all else with the one that it stands for."""
    made = copy.copy(module)
    made._modules = dict(module._modules)
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def apart(model: nn.Module, values: Sequence[InputValues]) -> tuple[TorchStage, ...]:
    """Return the stages of a model that takes what files hold: see `split`."""
    if isinstance(model, FusionModel):
        return _split_fusion(model, values)
    spec: ModelSpec = model.spec  # type: ignore[assignment] # `as_called` says so
    return (checked_whole(known(TorchStage(_whole_spec(spec), model), values), spec),)


def known(stage: TorchStage, values: Sequence[InputValues]) -> TorchStage:
    """Return a stage that knows what its inputs look like."""
    return with_values([stage], tuple(values))[0]


class FusionStage(nn.Module):
    """Call a fusion module with positional features, in the order of `names`, as a stage is called."""

    def __init__(self, fusion: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.fusion = fusion
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Take one feature per modality, then `present`."""
        features = dict(zip(self.names, tensors[:-1], strict=True))
        result: Tensor | tuple[Tensor, ...] = self.fusion(features, tensors[-1])
        return result


def _split_fusion(model: FusionModel, values: Sequence[InputValues]) -> tuple[TorchStage, ...]:
    stages: list[TorchStage] = []
    features: list[StageInput] = []
    for modality in model.spec.modalities:
        branch = _branch(modality, model.encoders[modality.name], values)
        stages += branch
        last = branch[-1].spec
        feature = msgspec.structs.replace(last.outputs[0].tensor, name=modality.name)
        features.append(StageInput(tensor=feature, source=Source(kind="stage", owner=last.name, tensor="feature")))
    names = tuple(modality.name for modality in model.spec.modalities)
    inputs = (*features, _present_input(model.spec))
    fusion = TorchStage(_result_spec("fusion", "fusion", inputs, model.spec), FusionStage(model.fusion, names).eval())
    if model.decoder is None:
        return with_twins((*stages, checked_whole(fusion, model.spec, stages)))
    return with_twins((*stages, *_split_decoder(model.decoder, fusion, model.spec, stages)))


def _split_decoder(
    decoder: Decoder, fusion: TorchStage, spec: ModelSpec, before: Sequence[TorchStage]
) -> tuple[TorchStage, TorchStage]:
    """Return the stage of fusion and of all that a decoder computes once per input, and the stage of its step."""
    masks = masks_of(spec)
    module = prepared(fusion.module, decoder, tensors_of(fusion.spec, next(feeds_of_chain(fusion, before, masks))))
    drafts = tuple(StageOutput(tensor=TensorSpec(name=name, shape=())) for name in module.names)
    once = TorchStage(msgspec.structs.replace(fusion.spec, outputs=drafts), module)
    shapes = zip(module.names, output_shapes(once, before, masks), strict=True)
    outputs = tuple(StageOutput(tensor=TensorSpec(name=name, shape=shape)) for name, shape in shapes)
    once = replace(once, spec=msgspec.structs.replace(once.spec, outputs=outputs))
    given = {port.tensor.name: (once.spec.name, port.tensor) for port in outputs}
    return once, step_stage(decoder, given, spec, (*before, once))


def step_stage(decoder: Decoder, given: Given, spec: ModelSpec, before: Sequence[TorchStage]) -> TorchStage:
    """Return the stage of a decoder's step.

    Args:
        decoder: of the model.
        given: what is computed once per input.
        spec: of the model.
        before: the other stages.

    Raises:
        ModelError: if a step fails, or gives other shapes than it should.
    """
    masks, output = masks_of(spec), spec.outputs[0]
    whole = step(decoder, step_spec(decoder, given, output), output)  # type: ignore[arg-type] # of tokens
    repeated = needed(whole, next(feeds_of_chain(whole, before, masks)))
    for port, shape in zip(repeated.spec.outputs, output_shapes(repeated, before, masks), strict=True):
        if shape != port.tensor.shape:
            what = f"the output '{port.tensor.name}' of a step of {type(decoder).__name__} has the wrong shape"
            raise ModelError(what, got=spelled(shape), expected=spelled(port.tensor.shape))
    return repeated


def _branch(modality: Modality, encoder: nn.Module, values: Sequence[InputValues]) -> list[TorchStage]:
    """Return the frontend, if there is one, and the encoder of a modality."""
    inputs = _modality_inputs(modality)
    lengths = (_length_input(modality),) if modality.length else ()
    stages: list[TorchStage] = []
    frontend = getattr(encoder, "frontend", None)
    if isinstance(frontend, nn.Module):
        stages.append(_feature_stage(known(TorchStage(_draft(modality, "frontend", inputs), frontend), values), []))
        spec = stages[0].spec
        source = Source(kind="stage", owner=spec.name, tensor="feature")
        inputs = (StageInput(tensor=spec.outputs[0].tensor, source=source),)
    draft = known(TorchStage(_draft(modality, "encoder", (*inputs, *lengths)), encoder), values)
    return [*stages, _feature_stage(draft, stages)]


def _whole_spec(spec: ModelSpec) -> StageSpec:
    inputs: list[StageInput] = []
    for modality in spec.modalities:
        inputs += _modality_inputs(modality, prefix=f"{modality.name}_")
    inputs += [_length_input(m, prefix=f"{m.name}_") for m in spec.modalities if m.length]
    if any(modality.optional for modality in spec.modalities):
        inputs.append(_present_input(spec))
    return _result_spec("model", "model", tuple(inputs), spec)


def _modality_inputs(modality: Modality, prefix: str = "") -> tuple[StageInput, ...]:
    return tuple(
        StageInput(
            tensor=msgspec.structs.replace(tensor, name=prefix + tensor.name),
            source=Source(kind="modality", owner=modality.name, tensor=tensor.name),
        )
        for tensor in modality.tensors
    )


def _length_input(modality: Modality, prefix: str = "") -> StageInput:
    tensor = TensorSpec(name=f"{prefix}length", dtype="int32", shape=(1,))
    return StageInput(tensor=tensor, source=Source(kind="length", owner=modality.name))


def _present_input(spec: ModelSpec) -> StageInput:
    tensor = TensorSpec(name="present", shape=(1, len(spec.modalities)))
    return StageInput(tensor=tensor, source=Source(kind="present"))


def _draft(modality: Modality, role: Role, inputs: tuple[StageInput, ...]) -> StageSpec:
    """Return the wiring of a stage of one modality, whose feature has no shape yet."""
    return StageSpec(
        name=f"{modality.name}_{role}",
        role=role,
        inputs=inputs,
        outputs=(StageOutput(tensor=TensorSpec(name="feature", shape=())),),
        modality=modality.name,
    )


def _feature_stage(draft: TorchStage, before: Sequence[TorchStage]) -> TorchStage:
    """Return a stage with the shape that its feature has."""
    shape = output_shapes(draft, before)[0]
    outputs = (StageOutput(tensor=TensorSpec(name="feature", shape=shape)),)
    return replace(draft, spec=msgspec.structs.replace(draft.spec, outputs=outputs))


def _result_spec(name: str, role: Role, inputs: tuple[StageInput, ...], spec: ModelSpec) -> StageSpec:
    outputs = tuple(
        StageOutput(tensor=TensorSpec(name=output.name, shape=(1, *output.shape)), kind="result")
        for output in spec.outputs
    )
    return StageSpec(name=name, role=role, inputs=inputs, outputs=outputs)


def check_spec(spec: ModelSpec) -> None:
    """Refuse names that would clash or that a caller could not write as a keyword."""
    names = [modality.name for modality in spec.modalities]
    for name in names:
        if not name.isidentifier() or name == "present":
            raise ModelError(
                f"a modality of '{spec.name}' has an unusable name",
                got=repr(name),
                expected="a Python identifier other than 'present'",
            )
    owned = {modality.name: [tensor.name for tensor in modality.tensors] for modality in spec.modalities}
    owned["outputs"] = [output.name for output in spec.outputs]
    for owner, tensors in (*owned.items(), ("modalities", names)):
        if not tensors or len(set(tensors)) < len(tensors) or ("length" in tensors and owner in names):
            raise ModelError(
                f"the names under '{owner}' of '{spec.name}' are not usable",
                got=", ".join(tensors) or "none",
                expected="at least one, each once, none of a modality's tensors called 'length'",
            )
