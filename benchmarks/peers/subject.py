"""The one model and the one set of data that every system gets, as files that need numpy alone to be read.

A subject is a folder: `subject.json`, `calibration.npz`, `test.npz`, and the whole float model (all modalities and
`present` in, outputs out, frontends included) as `model.onnx`, `model.tflite` and `model.pt2`. Peers quantize one
graph, so they get one graph, made by the exporters that edgefuse itself uses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = dict[str, Array]
"""Input name of the whole graph to array, with the batch of 1 in front."""

PRESENT = "present"


@dataclass(frozen=True)
class Input:
    """An input of the whole graph: its name there, the key of its values (`image.pixels`), type and largest shape."""

    name: str
    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """What `subject.json` holds.

    Attributes:
        model: the name of the model.
        recipe: the path of the recipe it was made from.
        inputs: in the order in which the whole graph takes them; `present` is the last.
        outputs: the names of the whole graph's outputs; the first one is judged.
        modalities: in the order of the columns of `present`.
        subsets: the subsets of modalities that accuracy is measured for; the first one is the full set.
        metric: by name, as in `edgefuse.compiler.metrics`.
        max_drop: the budget, as a fraction.
        digest: identifies weights, data and the tools that made the float files.
    """

    model: str
    recipe: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    modalities: tuple[str, ...]
    subsets: tuple[tuple[str, ...], ...]
    metric: str
    max_drop: float
    digest: str


@dataclass(frozen=True)
class Subject:
    """A subject's folder, opened."""

    folder: Path

    @cached_property
    def about(self) -> Description:
        """What `subject.json` holds."""
        table = json.loads((self.folder / "subject.json").read_text(encoding="utf-8"))
        inputs = tuple(Input(**{**entry, "shape": tuple(entry["shape"])}) for entry in table.pop("inputs"))
        subsets = tuple(tuple(subset) for subset in table.pop("subsets"))
        table = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        return Description(inputs=inputs, subsets=subsets, **table)

    @property
    def onnx(self) -> Path:
        """The float model as ONNX."""
        return self.folder / "model.onnx"

    @property
    def tflite(self) -> Path:
        """The float model as TFLite."""
        return self.folder / "model.tflite"

    @property
    def program(self) -> Path:
        """The float model as a saved `torch.export` program, static at the largest shapes."""
        return self.folder / "model.pt2"

    def split(self, name: str) -> Split:
        """Open `calibration` or `test`."""
        return Split(self, np.load(self.folder / f"{name}.npz"))

    def calibration(self) -> Iterator[Feeds]:
        """Yield what peers calibrate on: every item in full, and after it with one of the subsets, in turn.

        These are the samples that edgefuse calibrates fusion on, so that no peer meets absence for the first time in
        the test.
        """
        split = self.split("calibration")
        subsets = self.about.subsets
        for index in range(len(split)):
            for subset in (subsets[0], subsets[index % len(subsets)]):
                if split.has(index, subset):
                    yield split.feeds(index, subset)


class Split:
    """Preprocessed items of one split."""

    def __init__(self, subject: Subject, arrays: Mapping[str, Array]) -> None:
        self._about = subject.about
        self._values = {key: np.asarray(arrays[key]) for key in arrays if not key.startswith("#")}
        self.targets: Array = arrays["#target"]
        self._present: npt.NDArray[np.bool_] = arrays["#present"].astype(bool)

    def __len__(self) -> int:
        return len(self.targets)

    def columns(self, subset: Sequence[str]) -> list[int]:
        """Return the columns of `present` that a subset fills."""
        return [self._about.modalities.index(name) for name in subset]

    def has(self, index: int, subset: Sequence[str]) -> bool:
        """Tell whether an item has all modalities of a subset."""
        return bool(self._present[index, self.columns(subset)].all())

    def items(self, subset: Sequence[str]) -> list[int]:
        """Return the items that have all modalities of a subset."""
        return [index for index in range(len(self)) if self.has(index, subset)]

    def values(self, index: int, subset: Sequence[str]) -> dict[str, Array]:
        """Return the values of one item by key (`image.pixels`), zeros where a modality is not in the subset."""
        pool = {key: array[index] for key, array in self._values.items()}
        return {k: v if k.split(".")[0] in subset else np.zeros_like(v) for k, v in pool.items()}

    def feeds(self, index: int, subset: Sequence[str]) -> Feeds:
        """Return what the whole graph takes for one item with only these modalities present."""
        mask = np.zeros((1, len(self._about.modalities)), np.float32)
        mask[0, self.columns(subset)] = 1
        pool = {**self.values(index, subset), PRESENT: mask}
        return {port.name: pool[port.key] for port in self._about.inputs}


def write(folder: Path, about: Description, splits: Mapping[str, Mapping[str, Array]]) -> Subject:
    """Write the description and the data; `splits` holds stacked values by key, `#target` and `#present`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in splits.items():
        np.savez(folder / f"{name}.npz", **dict(arrays))  # type: ignore[arg-type]
    text = json.dumps(asdict(about), indent=1)
    (folder / "subject.json").write_text(text + "\n", encoding="utf-8")
    return Subject(folder.absolute())
