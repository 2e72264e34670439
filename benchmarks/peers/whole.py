"""Make a subject from a recipe: the whole model in one float file per format, and its data."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from benchmarks.peers.subject import PRESENT, Array, Description, Input, Subject, write
from edgefuse.bundle.spec import ModelSpec, Source, StageInput, StageSpec, TensorSpec
from edgefuse.compiler.model.opening import take_apart
from edgefuse.compiler.model.preparation import prepare
from edgefuse.compiler.model.splits import SplitData
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.model.subject import Subject as Compiled
from edgefuse.compiler.recipe.recipe import load
from edgefuse.datasets.cache import Cache
from edgefuse.datasets.cache import cache_folder as default_folder
from edgefuse.errors import RecipeError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Target
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.models import FusionModel
from edgefuse.progress import Progress
from edgefuse.stages.found.calling import Called
from edgefuse.stages.found.calling import whole_stage as called_whole
from edgefuse.stages.stage import TorchStage


class Whole(nn.Module):
    """Call a fusion model with positional tensors: those at `keys`, then `present`."""

    def __init__(self, model: FusionModel, keys: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.keys = keys

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return what the model returns."""
        result: Tensor | tuple[Tensor, ...] = self.model(dict(zip(self.keys, tensors[:-1], strict=True)), tensors[-1])
        return result


def whole_stage(compiled: Compiled) -> TorchStage:
    """Return the model as one stage from the modalities' tensors and `present` to the outputs.

    Raises:
        RecipeError: the model is an ONNX file, of which other tools' torch and TFLite cannot be made.
    """
    if isinstance(compiled.module, Called):  # whose stages were found
        return called_whole(compiled.module)
    if compiled.recipe.model.onnx:
        raise RecipeError(
            f"peers cannot be compared on '{compiled.spec.name}'", got="an ONNX file", expected="a torch module"
        )
    if not isinstance(compiled.module, FusionModel):
        return compiled.stages[0]  # it takes positions, and stayed one stage
    spec = compiled.spec
    inputs = (*_modality_inputs(spec), _present(spec))
    (last,) = [stage.spec for stage in compiled.stages if any(port.kind == "result" for port in stage.spec.outputs)]
    keys = tuple(port.source.key for port in inputs[:-1])
    stage = StageSpec(name="model", role="model", inputs=inputs, outputs=last.outputs)
    return TorchStage(stage, Whole(compiled.module, keys).eval())


def _modality_inputs(spec: ModelSpec) -> list[StageInput]:
    ports = []
    for modality in spec.modalities:
        for tensor in modality.tensors:
            named = msgspec.structs.replace(tensor, name=f"{modality.name}_{tensor.name}")
            source = Source(kind="modality", owner=modality.name, tensor=tensor.name)
            ports.append(StageInput(tensor=named, source=source))
        if modality.length:
            length = TensorSpec(name=f"{modality.name}_length", dtype="int32", shape=(1,))
            ports.append(StageInput(tensor=length, source=Source(kind="length", owner=modality.name)))
    return ports


def _present(spec: ModelSpec) -> StageInput:
    return StageInput(tensor=TensorSpec(name=PRESENT, shape=(1, len(spec.modalities))), source=Source(kind="present"))


def make(recipe: Path, folder: Path, progress: Progress) -> Subject:
    """Write a subject into a folder, unless it is there already, made of the same model, data and tools.

    Raises:
        EdgefuseError: if the recipe, the model or the data are wrong, or the model cannot be exported.
    """
    model = take_apart(recipe, load(recipe))
    compiled = prepare(model, Cache(default_folder()), progress)
    stage = whole_stage(compiled)
    about = _described(model, compiled, stage)
    subject = Subject(folder.absolute())  # workers stand elsewhere
    if (folder / "subject.json").is_file() and subject.about.digest == about.digest:
        return subject
    splits = {name: _arrays(compiled.splits[name], compiled.value_keys) for name in ("calibration", "test")}
    subject.folder.mkdir(parents=True, exist_ok=True)
    targets: tuple[tuple[Target, Path], ...] = ((OnnxTarget(), subject.onnx), (TfliteTarget(), subject.tflite))
    for number, (target, path) in enumerate(targets):
        progress(number, len(targets) + 1, f"export the whole model to {target.name}")
        path.write_bytes(target.lower(stage).data)
    progress(len(targets), len(targets) + 1, "export the whole model with torch.export")
    module = _with_lasting_buffers(stage.module)
    example = tuple(
        torch.zeros(port.tensor.max_shape, dtype=getattr(torch, port.tensor.dtype)) for port in stage.spec.inputs
    )
    torch.export.save(torch.export.export(module, example, strict=False), subject.program)
    return write(subject.folder, about, splits)


def _with_lasting_buffers(module: nn.Module) -> nn.Module:
    """Return a copy whose buffers all belong to its state: torch cannot export a loaded program again otherwise."""
    copied = copy.deepcopy(module)
    for inner in copied.modules():
        for name, buffer in inner.named_buffers(recurse=False):
            inner.register_buffer(name, buffer, persistent=True)
    return copied


def _described(model: Model, compiled: Compiled, stage: TorchStage) -> Description:
    inputs = tuple(
        Input(port.tensor.name, port.source.key, port.tensor.dtype, port.tensor.max_shape) for port in stage.spec.inputs
    )
    tools = {**OnnxTarget().versions(), **TfliteTarget().versions()}
    identity = [
        compiled.provenance.weights_sha256,
        compiled.provenance.data_sha256,
        repr(inputs),
        sorted(tools.items()),
    ]
    return Description(
        model=compiled.spec.name,
        recipe=str(model.path.resolve()),
        inputs=inputs,
        outputs=tuple(port.tensor.name for port in stage.spec.outputs),
        modalities=tuple(modality.name for modality in compiled.spec.modalities),
        subsets=compiled.subsets,
        metric=compiled.spec.metric,
        max_drop=model.max_drops[model.spec.outputs[0].name].limit(1.0),
        digest=hashlib.sha256(repr(identity).encode()).hexdigest(),
    )


def _arrays(data: SplitData, keys: tuple[str, ...]) -> Mapping[str, Array]:
    (targets,) = (one.values for one in data.targets.values())
    return {**{key: data.values.stacked(key) for key in keys}, "#target": targets, "#present": data.present}
