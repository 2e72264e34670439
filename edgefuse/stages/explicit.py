"""Take a torch model apart into stages, following its spec, and find the shapes that pass between them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import (
    Bounded,
    Bucketed,
    Dim,
    Modality,
    ModelSpec,
    Role,
    Source,
    StageInput,
    StageOutput,
    StageSpec,
    TensorSpec,
    spelled,
)
from edgefuse.bundle.wiring import width
from edgefuse.errors import ModelError
from edgefuse.models.fusion import FusionModel
from edgefuse.stages.examples import call_torch, chained_feeds, example_feeds, run_torch
from edgefuse.stages.stage import Feeds, TorchStage

__all__ = ["chained_feeds", "example_feeds", "run_torch", "split"]


def split(model: nn.Module) -> tuple[TorchStage, ...]:
    """Take a model apart into stages, in eval mode and in an order in which they can run.

    A `FusionModel` becomes the stages `<modality>_frontend`, `<modality>_encoder` and `fusion`. Any other module with a
    `spec` becomes the one stage `model`, called with all modality tensors in order, then the lengths, then `present` if
    any modality is optional. Shapes are found by running torch on generated inputs. A model in training mode is copied,
    so that the caller's stays as it is.

    Raises:
        ModelError: if the model has no spec, raises, or its tensors do not match the spec.
    """
    spec = getattr(model, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise ModelError(
            f"the model {type(model).__name__} does not describe itself",
            got=f"spec = {type(spec).__name__}",
            expected="an attribute `spec` of type ModelSpec",
            fix="build an edgefuse FusionModel, or set `model.spec`",
        )
    check_spec(spec)
    if any(module.training for module in model.modules()):
        model = copy.deepcopy(model).eval()
    return _split_fusion(model) if isinstance(model, FusionModel) else (_whole(model, spec),)


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


def _split_fusion(model: FusionModel) -> tuple[TorchStage, ...]:
    stages: list[TorchStage] = []
    features: list[StageInput] = []
    for modality in model.spec.modalities:
        branch = _branch(modality, model.encoders[modality.name])
        stages += branch
        last = branch[-1].spec
        feature = msgspec.structs.replace(last.outputs[0].tensor, name=modality.name)
        features.append(StageInput(tensor=feature, source=Source(kind="stage", owner=last.name, tensor="feature")))
    names = tuple(modality.name for modality in model.spec.modalities)
    inputs = (*features, _present_input(model.spec))
    stages.append(_result_stage("fusion", "fusion", inputs, FusionStage(model.fusion, names).eval(), model.spec))
    return tuple(stages)


def _branch(modality: Modality, encoder: nn.Module) -> list[TorchStage]:
    """Return the frontend, if there is one, and the encoder of a modality."""
    inputs = _modality_inputs(modality)
    lengths = (_length_input(modality),) if modality.length else ()
    stages: list[TorchStage] = []
    frontend = getattr(encoder, "frontend", None)
    if isinstance(frontend, nn.Module):
        stages.append(_feature_stage(modality, "frontend", inputs, frontend))
        spec = stages[0].spec
        source = Source(kind="stage", owner=spec.name, tensor="feature")
        inputs = (StageInput(tensor=spec.outputs[0].tensor, source=source),)
    stages.append(_feature_stage(modality, "encoder", (*inputs, *lengths), encoder))
    return stages


def _whole(model: nn.Module, spec: ModelSpec) -> TorchStage:
    inputs: list[StageInput] = []
    for modality in spec.modalities:
        inputs += _modality_inputs(modality, prefix=f"{modality.name}_")
    inputs += [_length_input(m, prefix=f"{m.name}_") for m in spec.modalities if m.length]
    if any(modality.optional for modality in spec.modalities):
        inputs.append(_present_input(spec))
    return _result_stage("model", "model", tuple(inputs), model, spec)


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


def _feature_stage(modality: Modality, role: Role, inputs: tuple[StageInput, ...], module: nn.Module) -> TorchStage:
    name = f"{modality.name}_{role}"
    draft = StageSpec(
        name=name,
        role=role,
        inputs=inputs,
        outputs=(StageOutput(tensor=TensorSpec(name="feature", shape=())),),
        modality=modality.name,
    )
    shape = _output_shapes(TorchStage(draft, module))[0]
    outputs = (StageOutput(tensor=TensorSpec(name="feature", shape=shape)),)
    return TorchStage(msgspec.structs.replace(draft, outputs=outputs), module)


def _result_stage(
    name: str, role: Role, inputs: tuple[StageInput, ...], module: nn.Module, spec: ModelSpec
) -> TorchStage:
    outputs = tuple(
        StageOutput(tensor=TensorSpec(name=output.name, shape=(1, width(output))), kind="result")
        for output in spec.outputs
    )
    return checked_whole(TorchStage(StageSpec(name=name, role=role, inputs=inputs, outputs=outputs), module), spec)


def checked_whole(stage: TorchStage, spec: ModelSpec) -> TorchStage:
    """Return a stage that gives all outputs of a model, if they have the shapes that the model's spec says.

    Raises:
        ModelError: if they do not, or the stage cannot be run.
    """
    for output, shape in zip(stage.spec.outputs, _output_shapes(stage), strict=True):
        if shape != output.tensor.shape:
            raise ModelError(
                f"the output '{output.tensor.name}' of '{spec.name}' has another shape than its spec says",
                got=spelled(shape),
                expected=spelled(output.tensor.shape),
                fix="correct the labels or size in the spec, or the last layer",
            )
    return stage


def _output_shapes(stage: TorchStage) -> list[tuple[Dim, ...]]:
    """Run a stage at several sizes and return the shapes of its outputs, dynamic where they follow the input."""
    dims = [dim for port in stage.spec.inputs for dim in port.tensor.shape]
    buckets = max((len(dim.sizes) for dim in dims if isinstance(dim, Bucketed)), default=1)
    bounded = any(isinstance(dim, Bounded) for dim in dims)
    variants = max(buckets, 2 if bounded else 1)
    shapes = [_probe(stage, feeds) for feeds in example_feeds(stage, count=variants)]
    again = _probe(stage, next(example_feeds(stage, seed=1)))
    if again != shapes[0]:
        raise ModelError(
            f"the output shape of the stage '{stage.spec.name}' depends on the values of its inputs",
            got=f"{spelled(again[0])} after {spelled(shapes[0][0])}",
            expected="one shape for inputs of one shape",
        )
    return [
        tuple(dim_of([sizes[axis] for sizes in probes], bounded) for axis in range(len(probes[0])))
        for probes in zip(*shapes, strict=True)
    ]


def dim_of(sizes: Sequence[int], bounded: bool) -> Dim:
    """Return a dimension that took some sizes: `bounded` if the inputs are, else the sizes are buckets."""
    if len(set(sizes)) == 1:
        return sizes[0]
    return Bounded(max=max(sizes)) if bounded else Bucketed(sizes=tuple(sorted(set(sizes))))


def _probe(stage: TorchStage, feeds: Feeds) -> list[tuple[int, ...]]:
    """Run a stage once, check what it returns and give the shapes."""
    shapes = []
    for name, value in _call(stage, feeds).items():
        where = f"'{name}' of the stage '{stage.spec.name}'"
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            raise ModelError(f"the output {where} has the wrong type", got=_type_of(value), expected="a float32 tensor")
        if value.dim() == 0 or value.shape[0] != 1:
            raise ModelError(f"the output {where} lost the batch", got=list(value.shape), expected="[1, ...]")
        if not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"the output {where} is not finite on generated inputs",
                got="NaN or infinity",
                expected="finite numbers",
                fix="check the weights, and logarithms and divisions by zero",
            )
        shapes.append(tuple(value.shape))
    return shapes


def _call(stage: TorchStage, feeds: Feeds) -> dict[str, Any]:
    try:
        return call_torch(stage, feeds)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        takes = ", ".join(f"{port.tensor.name} {spelled(port.tensor.shape)}" for port in stage.spec.inputs)
        raise ModelError(
            f"the stage '{stage.spec.name}' failed when called with ({takes})", got=f"{type(error).__name__}: {error}"
        ) from error


def _type_of(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


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
