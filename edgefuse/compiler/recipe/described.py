"""The section `[model]`: where the model comes from and, of one that does not describe itself, its spec as TOML."""

from __future__ import annotations

from pathlib import Path

from edgefuse.bundle.spec import Declared, Dim, Output, Preprocess, Record, TensorPreprocess
from edgefuse.errors import RecipeError


class TensorSection(Record, frozen=True, kw_only=True):
    """A tensor of a modality; what is left out is as the file says.

    Attributes:
        name: of the tensor: the input of the file that is called so, or as its modality.
        input: the name of the input in the file, if it is none of these.
        dtype: of the tensor.
        shape: of one sample, batch first; sizes that the file leaves open are bounded or bucketed.
    """

    name: str
    input: str = ""
    dtype: Declared | None = None
    shape: tuple[Dim, ...] | None = None


class ModalitySection(Record, frozen=True, kw_only=True):
    """A modality: `[model.modalities.NAME]`, with the fields of `Modality`.

    Attributes:
        tensors: that it delivers, by name or in full; the one `values` if none is named.
        preprocess: how raw input becomes these.
        optional: whether it may be absent.
        length: whether its number of steps goes with it.
    """

    tensors: tuple[TensorSection | str, ...] = ()
    preprocess: Preprocess = TensorPreprocess()
    optional: bool = False
    length: bool = False


class ModelSection(Record, frozen=True, kw_only=True):
    """Where the model comes from.

    Attributes:
        factory: `module:callable` that returns the torch model; the module may lie beside the recipe.
        pretrained: in its place, a folder of a model of Hugging Face's, which has weights and assets of its own.
        onnx: in their place, an ONNX file beside the recipe, which these describe:
        modalities: its inputs, by the name of the modality.
        outputs: what it gives, by the names in the file.
        name: of the model; the file's by default.
        metric: that judges the first output; by default, what its kind is judged by.
        weights: a file beside the recipe, loaded into the model: safetensors, the index of their shards, or a state
            dict or checkpoint that `torch.save` wrote.
        assets: files beside the recipe that preprocessing needs (a tokenizer), besides those the model brings.
    """

    factory: str = ""
    pretrained: str = ""
    onnx: str = ""
    modalities: dict[str, ModalitySection] = {}  # noqa: RUF012 - msgspec copies empty defaults
    outputs: tuple[Output, ...] = ()
    name: str = ""
    metric: str = ""
    weights: str | None = None
    assets: tuple[str, ...] = ()


def check_source(path: Path, model: ModelSection, *, prunes: bool) -> None:
    """Check that a recipe says where its model comes from, and says of an ONNX file what it cannot say by itself.

    Args:
        path: of the recipe.
        model: its section.
        prunes: whether the recipe prunes anything.

    Raises:
        RecipeError: if it does not.
    """
    given = [key for key in ("factory", "pretrained", "onnx") if getattr(model, key)]
    if len(given) != 1:
        raise RecipeError(
            f"[model] in {path} names no model, or more than one",
            got=" and ".join(given) or "none",
            expected="factory = 'module:callable', pretrained = 'folder' or onnx = 'model.onnx'",
        )
    if model.weights is not None and not model.factory:
        raise RecipeError(
            f"[model] in {path} names weights for a model that has its own", got=given[0], fix="leave weights out"
        )
    if model.onnx:
        _check_onnx(path, model, prunes=prunes)
        return
    keys = ("modalities", "outputs", "name", "metric")
    for key in (key for key in keys if getattr(model, key)):
        raise RecipeError(
            f"[model] {key} in {path} describes a model that a {'factory' if model.factory else 'folder'} describes",
            expected="a description in its ModelSpec" if model.factory else "what the folder says",
            fix="leave it out",
        )


def _check_onnx(path: Path, model: ModelSection, *, prunes: bool) -> None:
    for key in (key for key in ("modalities", "outputs") if not getattr(model, key)):
        raise RecipeError(
            f"[model] in {path} does not describe the ONNX file {model.onnx}",
            got=f"no {key}",
            expected="[model.modalities.NAME] for its inputs, and outputs = [{type = 'classes', name = …, labels = …}]",
        )
    if prunes:
        raise RecipeError(
            f"the recipe {path} prunes an ONNX file, which cannot recover",
            got=model.onnx,
            expected="a torch module, whose stages learn again what pruning took",
            fix="give the model by a factory, or leave [prune] out",
        )
