"""Predictions of a stream, one at a time, on the pipeline that runs now."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from threading import Condition, Lock
from weakref import ref

from edgefuse.errors import EdgefuseError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.cache import Kept
from edgefuse.runtime.graph import Inputs
from edgefuse.runtime.stream.answer import Answer
from edgefuse.runtime.stream.holder import Holder, Ladder, Runner
from edgefuse.runtime.stream.intake import Intake
from edgefuse.runtime.stream.source import Value
from edgefuse.runtime.stream.triggers import Due

_log = logging.getLogger(__name__)


class Predictor:
    """Predicts from what an intake has, and lets a ladder decide at which rung the next prediction runs.

    Args:
        holder: of the pipeline. A change of it takes effect at the next prediction.
        intake: of the stream.
        changing: held while the intake is used.
        deadline_s: from when a prediction is due to its answer; infinite if there is none.
        ladder: is told how long each prediction took, without pauses of those who ask.
        now: the clock of this machine, in seconds.

    Attributes:
        lock: held by one prediction at a time.
        predictions: made so far.
        missed: of these, later than the deadline.
    """

    def __init__(
        self,
        holder: Holder,
        intake: Intake,
        changing: Condition,
        *,
        deadline_s: float,
        ladder: Ladder | None,
        now: Callable[[], float],
    ) -> None:
        self.predictions = self.missed = 0
        self.lock = Lock()
        self._holder, self._intake, self._changing = holder, intake, changing
        self._deadline_s, self._ladder, self._now = deadline_s, ladder, now
        self._without: frozenset[str] = frozenset()  # as the ladder decided, for the rung that it chose
        self._chosen: str | None = None
        self._ended_s = self._free_s = -math.inf  # when the last prediction was made, and had nobody paused
        self._kept = Kept(intake.series)
        self._running: Callable[[], object] = lambda: None  # weakly: only its encoders keep a pipeline
        self._follow(holder.pipeline)

    @property
    def size_bytes(self) -> int:
        """Of the features that it keeps."""
        return self._kept.size_bytes

    def answer(self, due: Due, asked_s: float) -> Answer | None:
        """Return the prediction at a time; None if there is nothing to predict from, or the stream is closed.

        Args:
            due: the time, and when it became due.
            asked_s: when somebody asked for it, by the clock of this machine: before it was due, or after.

        Raises:
            InputError: if the pipeline was closed, or now is that of a bundle with other inputs.
            BackendError: if a runtime cannot run a stage.
        """
        with self.lock:
            pipeline = self._holder.pipeline
            if self._running() is not pipeline:
                self._follow(pipeline)
            time_s = due.time_s
            with self._changing:
                taken = self._intake.take(time_s, self._without)
            if taken is None:
                return None
            found = {name: prepare() for name, prepare in taken.items()}
            outputs = pipeline.infer(self._inputs(found, pipeline.cache.entries > 0))
            now_s = self._now()
            took_s = now_s - due.since_s
            missed = took_s > self._deadline_s
            self.predictions += 1
            self.missed += missed
            if self._ladder is not None:
                self._consult(self._ladder, pipeline, now_s, self._own_s(due.since_s, asked_s, now_s))
            return Answer(
                outputs=outputs,
                spec=pipeline.manifest.model.outputs,
                time_s=time_s,
                ages={name: time_s - value.time_s for name, value in found.items()},
                latency_s=took_s,
                missed=missed,
                rung=pipeline.rung.name,
            )

    def _inputs(self, found: dict[str, Value], keeps: bool) -> Inputs:
        values: dict[str, Array] = {}
        keys: dict[str, Hashable] = {}
        encoded: list[str] = []
        for name, value in found.items():
            values.update(value.values)
            if value.encoded:
                encoded.append(name)
            else:
                keys[name] = value.key
        self._kept.keys = keys
        return Inputs(values, tuple(found), tuple(encoded), self._kept if keeps else None)

    def _follow(self, pipeline: Runner) -> None:
        """Go on with the pipeline that runs now; files of encoders are opened without the lock."""
        streaming = set(pipeline.streaming)
        encoders = {name: pipeline.incremental(name) for name in self._intake.incremental if name in streaming}
        with self._changing:
            self._intake.follow(pipeline.preprocessors, encoders)
        if pipeline.rung.name != self._chosen:  # somebody else chose it
            self._without = frozenset()
        self._running = ref(pipeline)

    def _own_s(self, due_s: float, asked_s: float, now_s: float) -> float:
        """Return how long a prediction would have taken, had nobody paused before asking for it or for those before it.

        No rung makes up for a pause. What passes between an answer and the next request while that is due counts up to
        half of the deadline, since a faster rung does make up for work that comes with each answer. (The recursion of
        Lindley, *The theory of queues with a single server*, 1952.)

        Args:
            due_s: when it was due.
            asked_s: when somebody asked for it.
            now_s: when it was there.
        """
        could_s = max(due_s, self._ended_s)
        begun_s = max(could_s, asked_s)
        self._free_s = max(self._free_s, due_s) + min(begun_s - could_s, self._deadline_s / 2) + now_s - begun_s
        self._ended_s = now_s
        return self._free_s - due_s

    def _consult(self, ladder: Ladder, pipeline: Runner, now_s: float, took_s: float) -> None:
        """Tell the ladder, and do what it decides; where that cannot be done, the answer is not lost for it."""
        ladder.observe(now_s, took_s, self._deadline_s, pipeline.rung.name)
        change = ladder.decide(now_s)
        if change is None:
            return
        now = self._holder.pipeline  # another bundle may have come during the prediction
        if change.rung != now.rung.name:
            try:
                self._holder.pipeline = now.at(change.rung)  # type: ignore[misc] # see `Holder`
            except EdgefuseError as error:  # such as that of a bundle that was swapped for one with other rungs
                _log.warning("the stream stays at the rung '%s': %s", now.rung.name, str(error))
                return
        self._without, self._chosen = frozenset(change.without), change.rung
