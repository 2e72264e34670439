"""A bundle opened on a device: what the pipelines at its rungs share, and how long each part of it lives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING
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

if TYPE_CHECKING:
    from edgefuse.runtime.side_by_side import Helper

_Key = tuple[str, str, tuple[Binding, ...], tuple[Binding, ...], BuildPlan | None, bool, int]
"""What makes two sessions the same: runtime, hash, bindings, build of an engine, whether features are kept, threads."""

_Chosen = list[tuple[StageSpec, Candidate]]


class OpenBundle:
    """A bundle opened on a device: what all pipelines at its rungs share. `edgefuse.load` makes it.

    * Sessions: a file is opened once, whatever rungs and stages use it, and is freed as soon as no pipeline does.
    * The guard: one call at a time, so that all pipelines together use no more threads than the bundle was given; in
      turns, so that callers get equal shares.
      Opening has a guard of its own: a rung is opened beside the calls of another.
    * Preprocessors, made once, and the feature cache: rungs that share an encoder share its features.
    * With two threads or more, the helper: a thread that encodes beside the one that calls, where that is faster.

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
        self.helper: Helper | None = None
        if options.threads > 1:
            from edgefuse.runtime.side_by_side import Helper, Times  # which the default does without

            self.helper = Helper()
            self._times: dict[str, Times] = {}
            finalize(self, self.helper.stop).atexit = False
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
        if self.helper is None:
            return Graph(self._stages, self._all(chosen, self._options.threads))
        return self._beside(rung, chosen, self.helper)

    def _beside(self, rung: Rung, chosen: _Chosen, helper: Helper) -> Graph:
        """Return the stages of a rung, of which encoders run side by side where that is measured to be faster."""
        from edgefuse.runtime.side_by_side import Sides, measured, plans_of, separate

        threads, names = self._options.threads, separate(self.manifest, rung)
        times, plans = self._times.get(rung.name), plans_of(self._stages, names)
        half: dict[str, Session] = {}
        if names and (times is None or times.pay):
            half = self._all([pair for pair in chosen if pair[0].modality in names], threads // 2)
        kept: list[object] = []  # is open until the end, and then found by `_all`
        if names and times is None:

            def opened(name: str) -> dict[str, Session]:
                return self._all([pair for pair in chosen if pair[0].modality == name], threads)

            times, kept = measured(self._stages, plans, half, opened, helper=helper, turn=self._turn)
            self._times[rung.name] = times
        narrow = times.narrow if times else ()
        full = self._all([pair for pair in chosen if pair[0].modality not in narrow], threads)
        sides = Sides(self._stages, plans, half, times, helper) if times and times.pay else None
        kept.clear()
        return Graph(self._stages, {**half, **full}, sides)

    def _all(self, chosen: _Chosen, threads: int) -> dict[str, Session]:
        with self._opening.lock:  # opening is native code, too, which a fork must not cut in two
            return {
                stage.name: repeated(self._session(stage, candidate, threads), stage, self.manifest.model)
                for stage, candidate in chosen
            }

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self.turns, self.guard.lock:
            yield

    def steps(self, streamed: Streamed, rung: Rung) -> dict[str, Session]:
        """Return the sessions of the steps of a modality at a rung, by stage; errors are those of `open`.

        Args:
            streamed: of the manifest.
            rung: one of its rungs.
        """
        self._opening.check()
        chosen = streamed.rungs[rung.name]
        with self._opening.lock:
            threads = self._options.threads
            return {s.name: self._session(s, self.manifest.candidate(chosen[s.name]), threads) for s in streamed.stages}

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

    def _session(self, stage: StageSpec, candidate: Candidate, threads: int) -> Session:
        """Return a file's session; if it has to be opened, its bytes are free again before the next one is read."""
        # Fusion depends on everything and would never hit; what carries a state is not a function of its feeds alone.
        kept = stage.role in ("frontend", "encoder") and all(port.kind != "state" for port in stage.outputs)
        file = (candidate.backend, candidate.sha256, candidate.inputs, candidate.outputs, candidate.plan, kept)
        session = self._sessions.get((*file, threads))
        if session is None:
            options = replace(self._options, threads=threads)
            session = self._backends.open(candidate, self._bundle.read(candidate.file), options)
            if kept:
                most = self._options.threads
                twin = self._sessions.get((*file, most // 2 if threads == most else most))
                session = self.cache.attach(session, stage.modality, twin)
            self._sessions[(*file, threads)] = session
        return session


def _candidate(manifest: Manifest, rung: Rung, stage: StageSpec) -> Candidate:
    if stage.name not in rung.candidates:
        raise BundleError(f"the rung '{rung.name}' has no file for the stage '{stage.name}'")
    return manifest.candidate(rung.candidates[stage.name])
