"""A bundle opened on a device: what the pipelines at its rungs share, and how long each part of it lives."""

from __future__ import annotations

from functools import cached_property
from weakref import WeakValueDictionary, finalize

from edgefuse.bundle.layout import ASSETS
from edgefuse.bundle.manifest import Binding, BuildPlan, Candidate, Manifest, Rung, Streamed
from edgefuse.bundle.reader import Bundle
from edgefuse.bundle.spec import StageSpec
from edgefuse.errors import BundleError
from edgefuse.graph import StageGraph
from edgefuse.runtime.backends.backend import Session, SessionOptions
from edgefuse.runtime.backends.choice import NOTHING, Backends
from edgefuse.runtime.cache import FeatureCache
from edgefuse.runtime.decoding import repeated
from edgefuse.runtime.forks import Guard
from edgefuse.runtime.graph import Graph
from edgefuse.runtime.preprocess import Preprocessor
from edgefuse.runtime.processor import processor
from edgefuse.runtime.suitability import concern
from edgefuse.runtime.turns import Turns

_Key = tuple[str, str, tuple[Binding, ...], tuple[Binding, ...], BuildPlan | None, bool]
"""What makes two opened files the same: runtime, hash, bindings, how an engine is built, whether features are kept."""


class OpenBundle:
    """A bundle opened on a device: what all pipelines at its rungs share. `edgefuse.load` makes it.

    * Sessions: a file is opened once, whatever rungs and stages use it, and is freed as soon as no pipeline does.
    * The guard: one call at a time, so that all pipelines together use no more threads than the bundle was given; in
      turns, so that callers get equal shares.
      Opening has a guard of its own: a rung is opened beside the calls of another.
    * Preprocessors, made once, and the feature cache: rungs that share an encoder share its features.

    Every pipeline that is not closed refers to it; when the last one is closed or let go of, the bundle's file is
    closed, unless it was the caller who had opened it. Until then a rung's files are read from that open file, and
    held against the manifest that was verified in the beginning. So an archive may be replaced by another of the same
    name: the old one is still read. If it was overwritten in place, or files of a folder changed, opening a rung is a
    `BundleError`; pipelines that are open go on.

    Safe for calls from several threads.

    Args:
        bundle: it is read when a rung is opened.
        backend: the name of what runs the files; the manifest's choice if None, `null` to run nothing.
        options: for every file.
        cache: keep the features of unchanged modalities.
        owned: close the bundle in the end.

    Raises:
        BackendError: if the files are for another backend.
    """

    def __init__(
        self, bundle: Bundle, backend: str | None, options: SessionOptions, *, cache: bool, owned: bool
    ) -> None:
        manifest = bundle.manifest
        self.manifest: Manifest = manifest
        self.cache = FeatureCache() if cache else FeatureCache(entries=0)
        self._bundle = bundle
        self.digest = bundle.digest
        self._warned: set[str] | None = None if backend == NOTHING else set()
        self._backends = Backends(manifest, backend)
        self._options = options
        self._stages = StageGraph(manifest.stages, manifest.model.modalities)
        self._sessions: WeakValueDictionary[_Key, Session] = WeakValueDictionary()
        self._opening = Guard()
        self.guard = Guard()
        self.turns = Turns()
        if owned:
            finalize(self, bundle.close).atexit = False

    def open(self, rung: Rung) -> Graph:
        """Return the stages of a rung over their sessions; only files that no pipeline has open are opened.

        Raises:
            BundleError: if a file cannot be read, or is not the one that the manifest means.
            BackendError: if the runtime cannot open a file, or this process was forked from the one that loaded.
            MissingExtraError: if a runtime is not installed.
        """
        self._opening.check()
        self._warn(rung)
        chosen = [(stage, _candidate(self.manifest, rung, stage)) for stage in self.manifest.stages]
        # The largest file first: what its opening needed for a moment is then free for the weights of the others, and
        # the peak of memory stays near what the opened files occupy.
        chosen.sort(key=lambda pair: -pair[1].size_bytes)
        with self._opening.lock:  # opening is native code, too, which a fork must not cut in two
            sessions = {
                stage.name: repeated(self._session(stage, candidate), stage, self.manifest.model)
                for stage, candidate in chosen
            }
        return Graph(self._stages, sessions)

    def steps(self, streamed: Streamed, rung: Rung) -> dict[str, Session]:
        """Return the sessions of the steps of a modality at a rung, by stage; errors are those of `open`.

        Args:
            streamed: of the manifest.
            rung: one of its rungs.
        """
        self._opening.check()
        chosen = streamed.rungs[rung.name]
        with self._opening.lock:
            return {s.name: self._session(s, self.manifest.candidate(chosen[s.name])) for s in streamed.stages}

    @cached_property
    def preprocessors(self) -> dict[str, Preprocessor]:
        """By modality; their assets are read from the bundle when the first pipeline asks for them."""

        def read(name: str) -> bytes:
            return self._bundle.read(ASSETS + name)

        return {modality.name: Preprocessor(modality, read) for modality in self.manifest.model.modalities}

    def _warn(self, rung: Rung) -> None:
        """Say, once for each rung, if its int8 arithmetic is not exact on this CPU."""
        if self._warned is None or rung.name in self._warned:
            return
        self._warned.add(rung.name)
        if sentence := concern(self.manifest, rung, self._backends, processor()):
            import logging  # nearly a megabyte that most devices do without

            logging.getLogger(__name__).warning(sentence)

    def _session(self, stage: StageSpec, candidate: Candidate) -> Session:
        """Return a file's session; if it has to be opened, its bytes are free again before the next one is read."""
        # Fusion depends on everything and would never hit; what carries a state is not a function of its feeds alone.
        kept = stage.role in ("frontend", "encoder") and all(port.kind != "state" for port in stage.outputs)
        key = (candidate.backend, candidate.sha256, candidate.inputs, candidate.outputs, candidate.plan, kept)
        session = self._sessions.get(key)
        if session is None:
            session = self._backends.open(candidate, self._bundle.read(candidate.file), self._options)
            if kept:
                session = self.cache.attach(session)
            self._sessions[key] = session
        return session


def _candidate(manifest: Manifest, rung: Rung, stage: StageSpec) -> Candidate:
    if stage.name not in rung.candidates:
        raise BundleError(f"the rung '{rung.name}' has no file for the stage '{stage.name}'")
    return manifest.candidate(rung.candidates[stage.name])
