"""Which files make an embedding of one modality alone, and that embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edgefuse.bundle.layout import ASSETS
from edgefuse.bundle.manifest import Manifest, Rung
from edgefuse.bundle.spec import EmbeddingOutput
from edgefuse.errors import InputError, shown
from edgefuse.graph import StageGraph
from edgefuse.runtime.pipeline import Inputs, Pipeline

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoder:
    """What embeds a modality at a rung.

    Attributes:
        output: the embedding.
        digest: SHA-256 over its name, the hashes of the stage files that run, and how the modality is prepared.
    """

    output: EmbeddingOutput
    digest: str


def encoder_of(manifest: Manifest, rung: Rung, modality: str) -> Encoder:
    """Return what embeds a modality when nothing else is present.

    Args:
        manifest: of the bundle.
        rung: one of its rungs.
        modality: the name of one of its modalities.

    Raises:
        InputError: if there is no such modality, it cannot be alone, or that gives no embedding, or several.
    """
    known = {one.name: one for one in manifest.model.modalities}
    if modality not in known:
        what = f"the model '{manifest.model.name}' has no such modality"
        raise InputError(what, got=shown(modality, 80), expected=" or ".join(known))
    described = known[modality]
    others = [one.name for one in manifest.model.modalities if not one.optional and one.name != modality]
    if others:
        raise InputError(
            f"'{modality}' cannot be embedded alone: '{others[0]}' is required, too",
            got=f"the model '{manifest.model.name}'",
            expected="a model whose other modalities may be absent",
        )
    plan = StageGraph(manifest.stages, manifest.model.modalities).plan((modality,))
    output = _only(manifest, [name for name, _ in plan.results], modality)
    assets = {file.path: file.sha256 for file in manifest.files if file.path.startswith(ASSETS)}
    tokenizer = assets.get(ASSETS + getattr(described.preprocess, "tokenizer", ""), "")
    files = {step.stage.name: manifest.candidate(rung.candidates[step.stage.name]).sha256 for step in plan.steps}
    made_of = [output.name, files, described.tensors, described.preprocess, tokenizer]
    return Encoder(output, hashlib.sha256(msgspec.json.encode(made_of, order="sorted")).hexdigest())


def embed(pipeline: Pipeline, inputs: Inputs) -> Vector:
    """Return the embedding of preprocessed inputs at length one, float32 [size].

    Args:
        pipeline: that they are for.
        inputs: of one modality, or of several that the model fuses into one embedding.

    Raises:
        InputError: if they give no embedding, or several, or one that is not finite or zero.
        BackendError: if a runtime cannot run a stage.
    """
    outputs = pipeline.infer(inputs)
    output = _only(pipeline.manifest, outputs, " and ".join(inputs.present))
    return unit(outputs[output.name][0], f"the embedding '{output.name}'")


def unit(vector: npt.ArrayLike, what: str) -> Vector:
    """Return a vector at length one, float32.

    Raises:
        InputError: if it has no direction: it is zero, or not finite.
    """
    exact = np.asarray(vector, np.float64)
    with np.errstate(over="ignore"):  # what is too large is told below
        length = float(np.linalg.norm(exact))
    if not (np.isfinite(length) and length > 0):
        raise InputError(
            f"{what} has no direction", got=f"the length {length:g}", expected="finite numbers, not all zero"
        )
    return np.asarray(exact / length, np.float32)


def _only(manifest: Manifest, names: Iterable[str], given: str) -> EmbeddingOutput:
    known = {one.name: one for one in manifest.model.outputs if isinstance(one, EmbeddingOutput)}
    found = [known[name] for name in names if name in known]
    if len(found) != 1:
        raise InputError(
            f"'{manifest.model.name}' does not give one embedding of {given}",
            got=", ".join(one.name for one in found) or "none",
            expected="one embedding, as a point that is looked for or found",
            fix="give one modality" if " and " in given else None,
        )
    return found[0]
