"""Run a bundle on a device and compare what it answers with what another one answered."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.portability import wheels
from benchmarks.portability.machines import Device
from benchmarks.portability.runtimes import PACKAGES
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.spec import ClassOutput
from edgefuse.datasets.sample import Sample
from edgefuse.errors import DataError, MeasureError
from edgefuse.runtime.pipeline import load

Array: TypeAlias = npt.NDArray[Any]
Answers: TypeAlias = Mapping[str, Array]
Row: TypeAlias = dict[str, Any]

_PROGRAM = Path(__file__).with_name("answers.py")


@dataclass(frozen=True)
class Question:
    """A bundle with items to answer.

    Attributes:
        bundle: its path.
        manifest: of the bundle.
        inputs: the file with the preprocessed items.
        targets: the index of the right class of every item.
    """

    bundle: Path
    manifest: Manifest
    inputs: Path
    targets: Array = field(repr=False)

    @property
    def name(self) -> str:
        """The bundle's name in tables, with its folder: `digits/digits-onnx`."""
        return named(self.bundle)


def named(bundle: Path) -> str:
    """Return what a bundle is called: two recipes for one model give files of the same name."""
    return f"{bundle.resolve().parent.name}/{bundle.name.removesuffix('.edgefuse')}"


def ask(bundle: Path, samples: Sequence[Sample], folder: Path) -> Question:
    """Preprocess items here, once for all machines: decoding and tokenising belong to the caller of a device.

    Raises:
        MeasureError: if the model does not classify.
    """
    path = folder / f"{named(bundle)}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    with load(bundle) as pipeline:
        manifest = pipeline.manifest
        if not isinstance(manifest.model.outputs[0], ClassOutput):
            raise MeasureError(f"the bundle {bundle.name} has no labels to compare", expected="a classifier")
        for number, sample in enumerate(samples):
            values = pipeline.preprocess(**sample.inputs).values
            tensors |= {f"{number}/{key}": value for key, value in values.items()}
    np.savez(path, **tensors)
    return Question(bundle, manifest, path, np.array([sample.target for sample in samples]))


def verify(device: Device, bundle: Path) -> None:
    """Verify a bundle on a device.

    Raises:
        MeasureError: if hashes or golden vectors do not hold, in the words of `edgefuse verify`.
    """
    done = device("-m", "edgefuse", "verify", bundle.resolve(), "--json")
    if done.returncode not in (0, 1):
        raise _failed("edgefuse verify", done)
    failed: dict[str, list[str]] = {}
    for row in json.loads(done.stdout)["golden"]:
        if not row["ok"]:
            failed.setdefault(row["reason"].rstrip("."), []).append(row["candidate"])
    if failed:
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in failed.items())
        raise MeasureError(f"{sum(map(len, failed.values()))} files of {bundle.name} fail", got=reasons)


def answer(device: Device, question: Question, folder: Path) -> Answers:
    """Return what a device answers, under the names of `answers.py`.

    Raises:
        MeasureError: if it fails to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "answers.npz"
    done = device(_PROGRAM, question.bundle.resolve(), question.inputs.resolve(), path.resolve())
    if done.returncode:
        raise _failed("answering", done)
    return read(path)


def read(path: Path) -> Answers:
    """Read what `answers.py` wrote."""
    with np.load(path) as kept:
        return {name: kept[name] for name in kept.files}


def compare(question: Question, answers: Answers, reference: Answers) -> Row:
    """Return the figures of a row: float files by their largest difference, the default rung by its labels."""
    chosen = f"rung/{question.manifest.default_rung}"
    labels, expected = answers[chosen].argmax(-1), reference[chosen].argmax(-1)
    floats = [name for name in reference if name.startswith("float/")] + _float_rungs(question.manifest)
    errors = [float(np.abs(answers[name].astype(np.float64) - reference[name]).max(initial=0.0)) for name in floats]
    return {
        "max_abs_error": max(errors, default=None),
        "label_agreement": float((labels == expected).mean()),
        "accuracy": float((labels == question.targets).mean()),
    }


def _float_rungs(manifest: Manifest) -> list[str]:
    """Return the rungs of float files alone, under the names of `answers.py`."""
    floats = {candidate.id for candidate in manifest.candidates if candidate.scheme == "float"}
    return [f"rung/{rung.name}" for rung in manifest.rungs if floats.issuperset(rung.candidates.values())]


def runtime(device: Device, backend: str) -> str:
    """Return which package runs the files of a backend on a device, and its version: `onnxruntime 1.31.1`.

    Raises:
        DataError: if none does.
    """
    found = wheels.installed(device.site)
    for package in PACKAGES[backend]:
        for name, version in found.items():
            if name.replace("_", "-").lower() == package:
                return f"{package} {version}"
    raise DataError(f"no package for the backend '{backend}' on {device.machine.name}", got=", ".join(sorted(found)))


def _failed(what: str, done: subprocess.CompletedProcess[str]) -> MeasureError:
    said = [line for line in done.stderr.splitlines() if line.strip()]
    last = said[-1].strip() if said else "no message"
    return MeasureError(f"{what} failed", got=f"exit code {done.returncode}, '{last}'")
