"""Encoders of different modalities side by side: the thread that helps, and where that was measured to be faster.

With two threads or more, the new modalities of a call can be encoded one after the other, each with all threads, or in
two threads with half of them each. What is faster differs by model, runtime and machine: it is measured when a rung is
opened (decision 121).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from typing import Protocol, TypeAlias

import numpy as np

from edgefuse.bundle.manifest import Manifest, Rung
from edgefuse.bundle.spec import Modality, StageSpec, largest
from edgefuse.errors import EdgefuseError
from edgefuse.graph import Plan, StageGraph
from edgefuse.graph.stage_graph import zeros_of
from edgefuse.runtime.backends.backend import Array, Session
from edgefuse.runtime.backends.denormals import Flushed
from edgefuse.runtime.cache import CachedSession

_ROUNDS, _MOST_S = 8, 0.05
"""How often each way is timed: at least twice, and no more once so much time has gone."""
_GAIN_S = 50e-6
"""What a call must save: about what it takes to wake a thread."""
_CLEARLY = 0.95

Job: TypeAlias = Callable[[], object]


class Helper:
    """A thread that shares the work of whoever calls, one caller at a time; it is started when there is some first.

    It refers to no one while it waits, and ends when it is stopped.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._stopped = False

    def share(self, jobs: Iterable[Job]) -> None:
        """Do all jobs: whichever of the two threads is free takes the next one. None of them runs any more afterwards.

        What the calling thread's job raises is raised, or else what the helper's did; jobs that neither had begun by
        then are dropped.
        """
        work = _Work(jobs)
        try:
            if self._runs():
                self._asked.put(work)
            work.do()
        finally:
            work.end()
            error, work.error = work.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # whose traceback has this frame: one would keep the other

    def stop(self) -> None:
        """End the thread, from any thread, a destructor's too; nobody waits for it here."""
        self._stopped = True
        self._asked.put(None)

    def join(self) -> None:
        """Wait for the end of a thread that was stopped."""
        if self._stopped and self._thread is not None and self._thread is not current_thread():
            self._thread.join()

    def _runs(self) -> bool:
        if self._thread is None:
            thread = Thread(target=_serve, args=(self._asked,), name="edgefuse-encoders", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system gives no thread now: who calls does all of the work
                return False
            self._thread = thread
        return True


class _Work:
    """Jobs for two threads."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = deque(jobs)
        self._helping = Lock()
        self.error: BaseException | None = None

    def do(self) -> None:
        """Do one job after the other, until none is left or one fails."""
        while self._jobs:
            try:
                job = self._jobs.popleft()
            except IndexError:  # the other thread took it
                return
            job()

    def help(self) -> None:
        """Do the same in the helping thread; an error is kept for the one that called."""
        with self._helping:
            try:
                self.do()
            except BaseException as error:  # noqa: BLE001 - `share` raises it
                self._jobs.clear()
                self.error = error

    def end(self) -> None:
        """Drop what nobody has begun, and wait for the helping thread, also if the waiting is interrupted.

        No session may run when a call has ended: the next call, or a fork, would find it in use.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                self._jobs.clear()
                with self._helping:
                    break
            except BaseException as error:  # noqa: BLE001 - such as KeyboardInterrupt; raised below
                interrupt = error
        if interrupt is not None:
            raise interrupt


def _serve(asked: SimpleQueue[_Work | None]) -> None:
    with Flushed():
        while (work := asked.get()) is not None:
            work.help()
            del work  # nothing is kept alive by a thread that waits


@dataclass(frozen=True)
class Times:
    """How long the encoders of a rung take, in seconds; without any, nothing runs side by side.

    Attributes:
        full_s: by modality, alone, with all threads.
        half_s: the same with half of them.
        slowed: by how much two threads with half of them each slow each other.
    """

    full_s: Mapping[str, float]
    half_s: Mapping[str, float]
    slowed: float

    def order(self, new: Sequence[str]) -> tuple[str, ...]:
        """Return modalities in the order in which two threads take them; none if they are faster one after the other.

        Args:
            new: those to be encoded.
        """
        if len(new) < 2:
            return ()
        order = tuple(sorted(new, key=lambda name: -self.half_s[name]))
        beside = self.slowed * _two_threads_s([self.half_s[name] for name in order])
        alone = sum(min(self.full_s[name], self.half_s[name]) for name in new)
        return order if beside + _GAIN_S < alone else ()

    @cached_property
    def pay(self) -> bool:
        """Whether side by side is faster for all modalities together; if not, it is not done for some of them."""
        return bool(self.order(tuple(self.half_s)))

    @cached_property
    def narrow(self) -> frozenset[str]:
        """The modalities for which all threads are not clearly faster than half of them, alone either."""
        found = (name for name, half_s in self.half_s.items() if self.full_s[name] > _CLEARLY * half_s)
        return frozenset(found) if self.pay else frozenset()


def _two_threads_s(times: Sequence[float]) -> float:
    """Return when jobs end of which two threads take the next one whenever they are free (Graham, 1966)."""
    ends = [0.0, 0.0]
    for taken in times:
        ends[ends.index(min(ends))] += taken
    return max(ends)


class RunStage(Protocol):
    """Runs a stage in its session, or in that of others which are given."""

    def __call__(
        self, stage: StageSpec, feeds: dict[str, Array], sessions: Mapping[str, Session] = ..., /
    ) -> dict[str, Array]:
        """Return its outputs by port."""


@dataclass(frozen=True)
class Sides:
    """Encodes modalities in two threads.

    Attributes:
        stages: of the model.
        plans: by modality, of its own stages.
        sessions: with half of the threads, by stage.
        times: of the encoders.
        helper: of the open bundle.
    """

    stages: StageGraph
    plans: Mapping[str, Plan]
    sessions: Mapping[str, Session]
    times: Times
    helper: Helper

    def encode(
        self, present: tuple[str, ...], encoded: tuple[str, ...], values: Mapping[str, Array], run: RunStage
    ) -> tuple[tuple[str, ...], dict[str, Array]]:
        """Return the modalities that were encoded, in the order of `present`, and their features by key.

        There are none where one after the other is faster: a modality whose features are remembered takes no time.

        Args:
            present: modalities that are there.
            encoded: those of them whose features are among the values.
            values: by key.
            run: runs a stage; called from both threads.
        """
        names = [name for name in present if name in self.plans and name not in encoded]
        order = self.times.order([name for name in names if not self._knows(name, values)] if len(names) > 1 else [])
        features: list[dict[str, Array]] = []

        def run_half(stage: StageSpec, feeds: dict[str, Array]) -> dict[str, Array]:
            return run(stage, feeds, self.sessions)

        def encode(name: str) -> None:
            features.append(self.stages.run(self.plans[name], run_half, values)[0])

        if order:
            self.helper.share([partial(encode, name) for name in order])
        new = tuple(name for name in names if name in order)
        return new, {key: value for one in features for key, value in one.items()}

    def _knows(self, name: str, values: Mapping[str, Array]) -> bool:
        """Tell whether the first stage of a modality remembers its feeds: the others will then, too."""
        first = self.plans[name].steps[0]
        session = self.sessions[first.stage.name]
        feeds = {port: values[key] for port, key in first.inputs if key in values}
        return isinstance(session, CachedSession) and session.knows(feeds)


def separate(manifest: Manifest, rung: Rung) -> tuple[str, ...]:
    """Return the modalities that could be encoded side by side: none if there are not two of them.

    Their stages run on the CPU, keep no state, and share no file with another modality, at no rung: a session runs one
    call at a time.

    Args:
        manifest: of a bundle.
        rung: one of its rungs.
    """
    steps = [stage for one in manifest.streamed or () for stage in one.stages]
    modality = {stage.name: stage.modality for stage in (*steps, *manifest.stages)}
    owners: dict[str, set[str]] = {}
    for candidate in manifest.candidates:
        owners.setdefault(candidate.sha256, set()).add(modality.get(candidate.stage, ""))
    unfit = set[str]().union(*(names for names in owners.values() if len(names) > 1))
    for stage in manifest.stages:
        elsewhere = manifest.candidate(rung.candidates[stage.name]).accelerator != "cpu"
        if elsewhere or any(port.kind == "state" for port in stage.outputs):
            unfit.add(stage.modality)
    encoded = {stage.modality for stage in manifest.stages} - unfit
    found = tuple(one.name for one in manifest.model.modalities if one.name in encoded)
    return found if len(found) > 1 else ()


def plans_of(stages: StageGraph, names: Iterable[str]) -> dict[str, Plan]:
    """Return, by modality, the plan that runs its own stages alone.

    Args:
        stages: of the model.
        names: of the modalities.
    """
    return {
        name: stages.plan([name], wanted=[stage.name for stage in stages.stages if stage.modality == name])
        for name in names
    }


def measured(
    stages: StageGraph,
    plans: Mapping[str, Plan],
    half: Mapping[str, Session],
    opened: Callable[[str], Mapping[str, Session]],
    *,
    helper: Helper,
    turn: Callable[[], AbstractContextManager[object]],
) -> tuple[Times, list[object]]:
    """Time the encoders of a rung, on zeros of the largest sizes: the least of a few runs each.

    Args:
        stages: of the model.
        plans: by modality.
        half: sessions with half of the threads, by stage.
        opened: opens those of a modality with all threads; one modality's are in memory at a time, unless they are
            clearly faster.
        helper: of the bundle.
        turn: is held for each run, as calls of other rungs may come between.

    Returns:
        The times, and the sessions that are clearly faster.
    """
    values = _zeros(stages.modalities)

    def encode(name: str, sessions: Mapping[str, Session]) -> Job:
        plain = {stage: one.session if isinstance(one, CachedSession) else one for stage, one in sessions.items()}
        return lambda: stages.run(plans[name], lambda stage, feeds: plain[stage.name].run(feeds), values)

    full_s, half_s = dict[str, float](), dict[str, float]()
    kept: list[object] = []
    jobs = {name: encode(name, half) for name in plans}
    try:
        for name, job in jobs.items():
            full = opened(name)
            full_s[name], half_s[name] = _fastest([encode(name, full), job], turn)
            if full_s[name] <= _CLEARLY * half_s[name]:
                kept.append(full)
            del full  # before the next one's files are opened
        order = sorted(jobs, key=lambda name: -half_s[name])
        (together_s,) = _fastest([lambda: helper.share([jobs[name] for name in order])], turn)
    except EdgefuseError:  # a call will say why
        return Times({}, {}, inf), []
    return Times(full_s, half_s, together_s / _two_threads_s([half_s[name] for name in order])), kept


def _fastest(ways: Sequence[Job], turn: Callable[[], AbstractContextManager[object]]) -> list[float]:
    """Return the least time of each way, in turns."""
    taken = [inf] * len(ways)
    began, flushed = time.perf_counter(), Flushed()
    for number in range(_ROUNDS):
        for at, job in enumerate(ways):
            with turn(), flushed:
                before = time.perf_counter()
                job()
                taken[at] = min(taken[at], time.perf_counter() - before)
        if number and time.perf_counter() - began > _MOST_S:
            break
    return taken


def _zeros(modalities: Iterable[Modality]) -> dict[str, Array]:
    """Return zeros for every modality, as long as it may be."""
    values: dict[str, Array] = {}
    names = 0
    for modality in modalities:
        names += 1
        values.update({one.key: np.zeros(one.tensor.max_shape, one.tensor.dtype) for one in zeros_of(modality)})
        if modality.length:
            values[f"{modality.name}.length"] = np.array([largest(modality.tensors[0].shape[1])], np.int32)
    return {**values, "present": np.ones((1, names), np.float32)}
