"""Open a bundle as a pipeline."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from edgefuse import registry
from edgefuse.bundle.layout import ASSETS
from edgefuse.bundle.manifest import Candidate, Manifest, Rung
from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.bundle.spec import StageSpec
from edgefuse.errors import BackendError, BundleError, InputError
from edgefuse.runtime.backends.backend import Backend, Session, SessionOptions
from edgefuse.runtime.cache import FeatureCache
from edgefuse.runtime.graph import Graph
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.preprocess import Preprocessor

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
        threads: how many threads inference may use.
        rung: the operating point; the bundle's default if None.
        digest: refuse the bundle unless this is its digest.
        cache: keep the features of unchanged modalities.
        spinning: let idle threads burn a core for lower latency.

    Raises:
        BundleError: if the bundle is damaged, or has no such rung or another digest.
        BackendError: if the runtime cannot open a file.
        MissingExtraError: if the runtime is not installed.
        InputError: if `threads` is not positive.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError("a pipeline needs a positive number of threads", got=repr(threads), expected="1 or more")
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
    features = FeatureCache() if cache else FeatureCache(entries=0)
    modalities = manifest.model.modalities
    chosen = [(stage, _candidate(manifest, rung, stage)) for stage in manifest.stages]
    # The largest file first: what its opening needed for a moment is then free for the weights of the others, and the
    # peak of memory stays near what the opened files occupy.
    chosen.sort(key=lambda pair: -pair[1].size_bytes)
    sessions = {
        stage.name: _session(bundle, stage, candidate, backend, options, features) for stage, candidate in chosen
    }
    return Pipeline(
        manifest,
        rung,
        {modality.name: Preprocessor(modality, lambda name: bundle.read(ASSETS + name)) for modality in modalities},
        Graph(manifest.stages, sessions, modalities),
        features,
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
    session = backend.open(bundle.read(candidate.file), candidate.inputs, candidate.outputs, options)
    # Fusion depends on everything and would never hit; what carries a state is not a function of its feeds alone.
    stateless = all(port.kind != "state" for port in stage.outputs)
    if stage.role in ("frontend", "encoder") and stateless:
        return features.attach(session, candidate.sha256)
    return session
