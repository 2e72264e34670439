"""The ONNX file that a recipe names, and its spec: what the recipe says of it, and what it says by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefuse import registry
from edgefuse.bundle.spec import (
    AudioPreprocess,
    DType,
    ImagePreprocess,
    Modality,
    ModelSpec,
    Preprocess,
    TensorSpec,
    TextPreprocess,
    VideoPreprocess,
)
from edgefuse.compiler.recipe.described import ModalitySection, TensorSection
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.errors import MissingExtraError, ModelError, RecipeError
from edgefuse.export.target import Target
from edgefuse.stages.onnx.file import OnnxFile, read
from edgefuse.stages.onnx.ports import Input, inputs_of, taken
from edgefuse.stages.stage import ONNX

_UNUSABLE = re.compile(r"[^a-z0-9_-]+")


@dataclass(frozen=True)
class DescribedFile:
    """An ONNX file and what is known of it.

    Attributes:
        file: as it was read.
        spec: of the model.
        names: of inputs in the file, by the key of the value, where the recipe gives them.
    """

    file: OnnxFile
    spec: ModelSpec
    names: Mapping[str, str]


def open_onnx(path: Path, recipe: Recipe) -> DescribedFile:
    """Read the ONNX file that a recipe names.

    Args:
        path: of the recipe.
        recipe: that names the file.

    Raises:
        RecipeError: if a target of the recipe does not lower ONNX files.
        ModelError: if the file cannot be read, or does not match its description.
    """
    _check_targets(path, recipe)
    section = recipe.model
    file = read(path.parent / section.onnx)
    sections = {name: _sections(modality) for name, modality in section.modalities.items()}
    names = {
        f"{name}.{tensor.name}": tensor.input
        for name, tensors in sections.items()
        for tensor in tensors
        if tensor.input
    }
    draft = ModelSpec(
        name=section.name or _UNUSABLE.sub("-", Path(section.onnx).stem.lower())[:64],
        modalities=tuple(_drafted(n, section.modalities[n], tensors) for n, tensors in sections.items()),
        outputs=section.outputs,
        metric=section.metric,
    )
    inputs = {value.name: value for value in inputs_of(file.model)}
    held = {one.value.source.key: inputs[one.name] for one in taken(file.model, draft, names)}
    modalities = tuple(_completed(modality, sections[modality.name], held) for modality in draft.modalities)
    return DescribedFile(file, msgspec.structs.replace(draft, modalities=modalities), names)


def _check_targets(path: Path, recipe: Recipe) -> None:
    """Refuse targets that lower no ONNX file: each says what it reads."""
    for name in (name for name in recipe.compile.members if not _reads_onnx(name)):
        others = [other for other in registry.names("targets") if _reads_onnx(other)]
        raise RecipeError(
            f"[compile] targets in {path} names '{name}', which is not made from an ONNX file",
            got=recipe.model.onnx,
            expected=" or ".join(others),
            fix=f"give the torch model by a factory, or leave '{name}' out",
        )


def _reads_onnx(name: str) -> bool:
    try:
        target: Target = registry.create("targets", name)
    except MissingExtraError:  # which is told where the target is asked to lower something
        return True
    return ONNX in target.reads


def _sections(modality: ModalitySection) -> tuple[TensorSection, ...]:
    """Return the tensors of a modality as the recipe describes them."""
    given = tuple(TensorSection(name=one) if isinstance(one, str) else one for one in modality.tensors)
    delivered = _delivered(modality.preprocess)
    return given or (TensorSection(name=delivered.name if delivered else "values"),)


def _drafted(name: str, modality: ModalitySection, tensors: tuple[TensorSection, ...]) -> Modality:
    """Return a modality whose tensors have no shapes yet."""
    return Modality(
        name=name,
        tensors=tuple(TensorSpec(name=tensor.name, shape=(1,)) for tensor in tensors),
        preprocess=modality.preprocess,
        optional=modality.optional,
        length=modality.length,
    )


def _completed(modality: Modality, sections: tuple[TensorSection, ...], held: Mapping[str, Input]) -> Modality:
    """Return a modality with the types and shapes that its preprocessing delivers, the recipe says or the file has."""
    delivered = _delivered(modality.preprocess)
    tensors = tuple(
        msgspec.structs.replace(delivered, name=section.name)
        if delivered and section.shape is None and section.dtype is None
        else _described(section, held[f"{modality.name}.{section.name}"])
        for section in sections
    )
    return msgspec.structs.replace(modality, tensors=tensors)


def _described(section: TensorSection, held: Input) -> TensorSpec:
    dtype: DType | None = held.dtype if section.dtype is None else _in_files(str(section.dtype))
    if dtype is None:
        raise ModelError(
            f"the input '{held.name}' of the ONNX file has a type that no bundle has",
            got=held.kind,
            expected="float32, uint8, or int32, int64 and bool, which become int32",
            fix="export the model with one of these",
        )
    shape = section.shape or held.shape
    if shape is None:
        raise ModelError(
            f"the input '{held.name}' of the ONNX file has open sizes, of which the recipe says nothing",
            got=held.sizes,
            expected="a bound, or buckets, for each but the first",
            fix=f"tensors = [{{name = '{section.name}', shape = [1, {{dim = 'bounded', max = 64}}]}}], for two sizes",
        )
    return TensorSpec(name=section.name, dtype=dtype, shape=shape)


def _in_files(dtype: str) -> DType:
    return "int32" if dtype in ("int64", "bool", "int32") else "uint8" if dtype == "uint8" else "float32"


def _delivered(preprocess: Preprocess) -> TensorSpec | None:
    """Return the tensor that a preprocessing delivers; None for arrays, which are as the file takes them."""
    if isinstance(preprocess, ImagePreprocess):
        shape = (1, preprocess.height, preprocess.width, preprocess.channels)
        return TensorSpec(name="pixels", dtype="uint8", shape=shape)
    if isinstance(preprocess, VideoPreprocess):
        size = (preprocess.height, preprocess.width, preprocess.channels)
        return TensorSpec(name="frames", dtype="uint8", shape=(1, preprocess.frames, *size))
    if isinstance(preprocess, AudioPreprocess):
        return TensorSpec(name="samples", shape=(1, preprocess.samples))
    if isinstance(preprocess, TextPreprocess):
        return TensorSpec(name="ids", dtype="int32", shape=(1, preprocess.max_length))
    return None
