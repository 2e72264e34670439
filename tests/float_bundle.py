"""A bundle of a model's stages in float, without a compile."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgefuse import registry
from edgefuse.bundle.manifest import Candidate, Manifest, Provenance, Rung, Tolerance
from edgefuse.bundle.spec import subset_name
from edgefuse.bundle.writer import write_bundle
from edgefuse.stages.found import Found


def float_bundle(path: Path, found: Found, assets: dict[str, bytes], target: str = "onnx") -> Path:
    """Lower every stage of a model, and write them as a bundle with one rung.

    Args:
        path: of the bundle.
        found: the model, taken apart.
        assets: files that its preprocessing reads, by name.
        target: what the files are for.
    """
    made = registry.create("targets", target)
    files: dict[str, bytes] = {f"assets/{name}": data for name, data in assets.items()}
    candidates = []
    for stage in found.stages:
        lowered = made.lower(stage)
        file = f"stages/{stage.spec.name}.float{made.suffix}"
        files[file] = lowered.data
        candidates.append(
            Candidate(
                id=f"{stage.spec.name}.float",
                stage=stage.spec.name,
                target=target,
                backend=made.backend,
                scheme="float",
                file=file,
                sha256=hashlib.sha256(lowered.data).hexdigest(),
                size_bytes=len(lowered.data),
                inputs=lowered.inputs,
                outputs=lowered.outputs,
                opset=lowered.opset,
                tolerance=Tolerance(),
            )
        )
    subsets = [subset_name(subset) for subset in found.spec.subsets()]
    frontends = {stage.spec.name for stage in found.stages if stage.spec.role == "frontend"}
    rung = Rung(
        name="float",
        objective="float",
        candidates={candidate.stage: candidate.id for candidate in candidates},
        accuracy=dict.fromkeys(subsets, 0.0),
        drop_ci95=dict.fromkeys(subsets, (0.0, 0.0)),
        within_budget=True,
        size_bytes=sum(one.size_bytes for one in candidates if one.stage not in frontends),
    )
    manifest = Manifest(
        target=target,
        model=found.spec,
        stages=tuple(stage.spec for stage in found.stages),
        candidates=tuple(sorted(candidates, key=lambda one: one.id)),
        rungs=(rung,),
        default_rung=rung.name,
        golden=(),
        files=(),
        provenance=Provenance(weights_sha256="0" * 64, data_sha256="1" * 64, recipe_sha256="2" * 64, tools={}),
    )
    write_bundle(path, manifest, files)
    return path
