"""What the model takes and gives, for `GET /v1/model`."""

from __future__ import annotations

import msgspec

from edgefuse.bundle.spec import Modality, Output
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.serve.http.generation import generates


class Model(msgspec.Struct, frozen=True):
    """The model that answers.

    Attributes:
        name: of the model.
        digest: of the bundle.
        rung: the operating point that answers.
        rungs: all that the bundle has.
        modalities: what it takes, as the bundle's manifest says it.
        outputs: what it gives, as the bundle's manifest says it.
        generates: it makes tokens one after the other: `POST /v1/generate`.
    """

    name: str
    digest: str
    rung: str
    rungs: tuple[str, ...]
    modalities: tuple[Modality, ...]
    outputs: tuple[Output, ...]
    generates: bool


def described(pipeline: Pipeline) -> Model:
    """Return what a pipeline takes and gives."""
    manifest = pipeline.manifest
    return Model(
        name=manifest.model.name,
        digest=pipeline.digest,
        rung=pipeline.rung.name,
        rungs=tuple(rung.name for rung in manifest.rungs),
        modalities=manifest.model.modalities,
        outputs=manifest.model.outputs,
        generates=generates(manifest.model),
    )
