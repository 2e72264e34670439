"""What runs on the device: answer kept inputs with some rungs of a bundle, and run its float files on golden inputs.

    python answers.py BUNDLE INPUTS.npz ANSWERS.npz

It needs what a device installs, nothing else. `INPUTS.npz` holds `<item>/<key>` for every preprocessed tensor.
`ANSWERS.npz` gets `rung/<name>` [items, ...] with the first output of every rung, and what float files answer
as `float/<candidate>/<case>/<port>`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.measure.agreement import read_tensor
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.choice import Backends
from edgefuse.runtime.pipeline import Inputs, load

Array = npt.NDArray[Any]


def rungs(bundle: Bundle, items: list[dict[str, Array]]) -> dict[str, Array]:
    """Return the first output of every rung for all items, every modality present."""
    present = tuple(modality.name for modality in bundle.manifest.model.modalities)
    found: dict[str, Array] = {}
    for rung in bundle.manifest.rungs:
        with load(bundle, rung=rung.name, cache=False) as pipeline:
            outputs = [pipeline.infer(Inputs(values=values, present=present)) for values in items]
        first = next(iter(outputs[0]))
        found[f"rung/{rung.name}"] = np.concatenate([one[first] for one in outputs])
    return found


def floats(bundle: Bundle) -> dict[str, Array]:
    """Return what every float file answers to the golden inputs of its stage."""
    backends = Backends(bundle.manifest)
    found: dict[str, Array] = {}
    for candidate in bundle.manifest.candidates:
        if candidate.scheme != "float":
            continue
        pruning = candidate.pruning.id if candidate.pruning else ""
        cases = [case for case in bundle.manifest.golden if (case.stage, case.pruning) == (candidate.stage, pruning)]
        session = backends.open(candidate, bundle.read(candidate.file), SessionOptions())
        for number, case in enumerate(cases):
            answer = session.run({tensor.port: read_tensor(bundle, tensor) for tensor in case.inputs})
            found |= {f"float/{candidate.id}/{number}/{port}": value for port, value in answer.items()}
    return found


def main(path: Path, inputs: Path, answers: Path) -> None:
    """Answer and write."""
    items: dict[int, dict[str, Array]] = {}
    with np.load(inputs) as kept:
        for name in kept.files:
            number, _, key = name.partition("/")
            items.setdefault(int(number), {})[key] = kept[name]
    with open_bundle(path) as bundle:
        found = rungs(bundle, [items[number] for number in sorted(items)]) | floats(bundle)
    np.savez(answers, **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
