"""A bundle opened on a device: raw inputs in, a prediction out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from threading import Lock
from types import TracebackType

from edgefuse.bundle.manifest import Manifest, Rung
from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.cache import FeatureCache
from edgefuse.runtime.graph import Graph, Subset
from edgefuse.runtime.prediction import Prediction
from edgefuse.runtime.preprocess import Preprocessor


@dataclass(frozen=True, slots=True)
class Inputs:
    """Preprocessed inputs.

    Attributes:
        values: tensors by key (`image.pixels`, `text.length`).
        present: the names of the modalities that are present, in spec order.
    """

    values: Mapping[str, Array]
    present: Subset


class Pipeline:
    """A rung of a bundle, ready to predict; made by `edgefuse.load`.

    Calls from several threads are safe: preprocessing runs side by side, inference one call after another. Stages run
    one at a time, so a pipeline never uses more threads than it was given. It is a context manager that closes itself.

    Args:
        manifest: of the bundle.
        rung: which operating point the graph runs.
        preprocessors: by modality, in spec order.
        graph: the opened stages.
        cache: what stands before the encoders; its counters tell how often it helped.
    """

    def __init__(
        self,
        manifest: Manifest,
        rung: Rung,
        preprocessors: Mapping[str, Preprocessor],
        graph: Graph,
        cache: FeatureCache,
    ) -> None:
        self.manifest = manifest
        self.rung = rung
        self.cache = cache
        self._preprocessors = dict(preprocessors)
        self._required = tuple(m.name for m in manifest.model.modalities if not m.optional)
        self._graph: Graph | None = graph
        self._lock = Lock()

    def __call__(self, **raw: object) -> Prediction:
        """Predict from raw inputs, one keyword per modality.

        Args:
            **raw: a path, bytes, an array, a PIL image, a string: what the modality's preprocessing takes. A modality
                that is left out, or None, is absent.

        Raises:
            InputError: if an input is wrong, a required modality is absent, or nothing is present.
            MissingExtraError: if an input needs a media library that is not installed.
            BackendError: if a runtime cannot run a stage.
        """
        return Prediction(outputs=self.infer(self.preprocess(**raw)), spec=self.manifest.model.outputs)

    def preprocess(self, **raw: object) -> Inputs:
        """Turn raw inputs into tensors: the first half of a call."""
        values: dict[str, Array] = {}
        present: list[str] = []
        given = 0
        for name, preprocessor in self._preprocessors.items():
            if name in raw:
                given += 1
                if raw[name] is not None:
                    values.update(preprocessor(raw[name]))
                    present.append(name)
        if given != len(raw):
            raise self._unknown(next(name for name in raw if name not in self._preprocessors))
        missing = [name for name in self._required if name not in present]
        if missing or not present:
            raise self._absent(missing, present)
        return Inputs(values=values, present=tuple(present))

    def infer(self, inputs: Inputs) -> dict[str, Array]:
        """Return the outputs by name for preprocessed inputs: the second half of a call."""
        with self._lock:
            if self._graph is None:
                raise InputError("this pipeline is closed", fix="load the bundle again")
            return self._graph.run(inputs.values, inputs.present)

    def close(self) -> None:
        """Free the opened files and the cache; closing twice is harmless."""
        with self._lock:
            self._graph = None
            self.cache.clear()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unknown(self, name: str) -> InputError:
        known = list(self._preprocessors)
        close = get_close_matches(name, known, n=1)
        return InputError(
            f"this model has no modality '{name}'",
            expected=" or ".join(known),
            fix=f"did you mean {close[0]}=…" if close else None,
        )

    def _absent(self, missing: list[str], present: list[str]) -> InputError:
        known = list(self._preprocessors)
        return InputError(
            f"the modality '{missing[0]}' is required" if missing else "no modality is present",
            got=", ".join(present) or "nothing",
            expected=", ".join(missing) if missing else f"at least one of {', '.join(known)}",
            fix=f"pass {(missing or known)[0]}=…",
        )
