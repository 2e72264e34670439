"""A bundle opened on a device: raw inputs in, a prediction out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from types import TracebackType

from edgefuse import registry
from edgefuse.bundle.layout import ASSETS
from edgefuse.bundle.manifest import Candidate, Manifest, Rung
from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.bundle.spec import StageSpec, largest
from edgefuse.errors import BackendError, BundleError, InputError
from edgefuse.graph import StageGraph
from edgefuse.runtime.backends.backend import Array, Backend, Session, SessionOptions
from edgefuse.runtime.cache import FeatureCache
from edgefuse.runtime.forks import Guard
from edgefuse.runtime.graph import Graph, Subset
from edgefuse.runtime.prediction import Prediction
from edgefuse.runtime.preprocess import Preprocessor
from edgefuse.runtime.processor import processor
from edgefuse.runtime.suitability import concern

_log = logging.getLogger(__name__)


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

    Calls from several threads are safe: preprocessing runs side by side, inference one call after another, so a
    pipeline never uses more threads than it was given. It is a context manager that closes itself. The counters of
    `cache` tell how often it helped. In a child process that is forked later it only says so: inference libraries do
    not survive a fork (`forks`).
    """

    def __init__(
        self,
        manifest: Manifest,
        rung: Rung,
        preprocessors: Mapping[str, Preprocessor],
        graph: Graph,
        cache: FeatureCache,
        guard: Guard,
    ) -> None:
        self.manifest = manifest
        self.rung = rung
        self.cache = cache
        self._preprocessors = dict(preprocessors)
        self._required = tuple(m.name for m in manifest.model.modalities if not m.optional)
        lengths = (m for m in manifest.model.modalities if m.length)
        self._lengths = [(m.name, f"{m.name}.length", largest(m.tensors[0].shape[1])) for m in lengths]
        self._graph: Graph | None = graph
        self._guard = guard

    def __call__(self, **raw: object) -> Prediction:
        """Predict from raw inputs, one keyword per modality.

        Args:
            **raw: a path, bytes, an array, a PIL image, a string: what the modality's preprocessing takes. A modality
                that is left out, or None, is absent.

        Raises:
            InputError: if an input is wrong, a required modality is absent, or nothing is present.
            MissingExtraError: if an input needs a media library that is not installed.
            BackendError: if a runtime cannot run a stage, or the pipeline was opened before this process was forked.
        """
        self._guard.check()
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
        self._guard.check()
        for name, key, steps in self._lengths:  # what was not preprocessed here may say anything
            given = inputs.values.get(key)
            if given is not None and given.size == 1 and name in inputs.present and not 1 <= given.item() <= steps:
                raise InputError(f"the length of '{name}' is out of range", got=given.item(), expected=f"1 to {steps}")
        with self._guard.lock:
            if self._graph is None:
                raise InputError("this pipeline is closed", fix="load the bundle again")
            return self._graph.run(inputs.values, inputs.present)

    def close(self) -> None:
        """Free the opened files and the cache; closing twice is harmless."""
        with self._guard.lock:
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


_NOTHING = "null"


def load(
    path: str | PathLike[str] | Bundle,
    *,
    backend: str | None = None,
    threads: int = 1,
    rung: str | None = None,
    digest: str | None = None,
    cache: bool = True,
    spinning: bool = False,
) -> Pipeline:
    """Open a bundle on this device.

    Args:
        path: the bundle's folder or `.edgefuse` file, or an open `Bundle` (which stays open).
        backend: what runs the files; the manifest's choice if None, `null` to run nothing.
        threads: how many threads inference may use; at most as many as there are processors.
        rung: the operating point; the bundle's default if None.
        digest: refuse the bundle unless this is its digest.
        cache: keep the features of unchanged modalities.
        spinning: let idle threads burn a core for lower latency.

    Raises:
        BundleError: if the bundle is damaged, or has no such rung or another digest.
        BackendError: if the runtime cannot open a file.
        MissingExtraError: if the runtime is not installed.
        InputError: if `threads` is not a number from 1 to the processors that this process may use.
    """
    options = SessionOptions(threads=threads, spinning=spinning)
    if not isinstance(path, Bundle):
        with open_bundle(Path(path), digest=digest) as bundle:
            return _opened(bundle, backend, rung, options, cache)
    if digest is not None and digest != path.digest:
        raise BundleError("the bundle is not the one that was pinned", got=path.digest, expected=digest)
    return _opened(path, backend, rung, options, cache)


def _opened(
    bundle: Bundle, backend_name: str | None, rung_name: str | None, options: SessionOptions, cache: bool
) -> Pipeline:
    manifest = bundle.manifest
    rung = manifest.rung(rung_name)
    if backend_name not in (None, manifest.backend, _NOTHING):
        # A file is checked for the runtime that its bundle names; another one must not get it unchecked.
        raise BackendError(
            f"this bundle is for the backend '{manifest.backend}'",
            got=repr(backend_name),
            expected=f"{manifest.backend} or {_NOTHING}",
        )
    backend: Backend = registry.create("backends", backend_name or manifest.backend)
    if backend_name != _NOTHING and (sentence := concern(manifest, rung, processor())):
        _log.warning(sentence)
    features = FeatureCache() if cache else FeatureCache(entries=0)
    modalities = manifest.model.modalities
    chosen = [(stage, _candidate(manifest, rung, stage)) for stage in manifest.stages]
    # The largest file first: what its opening needed for a moment is then free for the weights of the others, and the
    # peak of memory stays near what the opened files occupy.
    chosen.sort(key=lambda pair: -pair[1].size_bytes)
    guard = Guard()
    with guard.lock:  # opening is native code, too, which a fork must not cut in two
        sessions = {
            stage.name: _session(bundle, stage, candidate, backend, options, features) for stage, candidate in chosen
        }
    return Pipeline(
        manifest,
        rung,
        {modality.name: Preprocessor(modality, lambda name: bundle.read(ASSETS + name)) for modality in modalities},
        Graph(StageGraph(manifest.stages, modalities), sessions),
        features,
        guard,
    )


def _candidate(manifest: Manifest, rung: Rung, stage: StageSpec) -> Candidate:
    if stage.name not in rung.candidates:
        raise BundleError(f"the rung '{rung.name}' has no file for the stage '{stage.name}'")
    return manifest.candidate(rung.candidates[stage.name])


def _session(
    bundle: Bundle,
    stage: StageSpec,
    candidate: Candidate,
    backend: Backend,
    options: SessionOptions,
    features: FeatureCache,
) -> Session:
    """Open one file; its bytes are free again before the next one is read."""
    options = replace(options, plan=candidate.plan)
    session = backend.open(bundle.read(candidate.file), candidate.inputs, candidate.outputs, options)
    # Fusion depends on everything and would never hit; what carries a state is not a function of its feeds alone.
    stateless = all(port.kind != "state" for port in stage.outputs)
    if stage.role in ("frontend", "encoder") and stateless:
        return features.attach(session, candidate.sha256)
    return session
