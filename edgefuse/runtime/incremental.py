"""A modality encoded chunk by chunk, as its values come (decision 120)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from edgefuse.bundle.manifest import Streamed
from edgefuse.bundle.spec import StageSpec
from edgefuse.bundle.streamed import Chunks, chunks_of
from edgefuse.runtime.backends.backend import Array, Bound, Session, Stepping
from edgefuse.runtime.graph import zeros_of_tensor
from edgefuse.runtime.preprocess import Preprocessor


@dataclass(frozen=True, slots=True)
class Encoded:
    """A modality that is encoded already; a pipeline's call takes it in place of raw input.

    Attributes:
        modality: its name.
        values: what stages after its own read, by key.
    """

    modality: str
    values: Mapping[str, Array]


class Incremental:
    """Encodes a stream of one modality; made by `Pipeline.incremental`.

        heard = pipeline.incremental("audio")
        for chunk in microphone:                # any number of samples
            heard.push(chunk)
            prediction = pipeline(image=frame, audio=heard.encoded)

    From `reset`, the feature after one window is what a whole call makes of these samples. From then on each step gives
    that of the window which ends there, with the difference that its beginning was heard in the light of what came
    before it (docs/incremental.md).

    It keeps less than one chunk of values, and the states; both are its own, so a bundle may serve many streams. Each
    push is a call of its own: others of the bundle may come in between. Not for pushes from several threads at once.

    Attributes:
        encoded: what a call takes now, as the last step gave it; None until a whole window was heard.
        heard: how many values were taken in since the reset, along axis 1, those that wait for a step among them.
        behind: how many of them wait: so much older is what is `encoded`.
        chunk: how many values one step takes, along axis 1: samples of sound.
    """

    def __init__(
        self,
        streamed: Streamed,
        preprocessor: Preprocessor,
        sessions: Mapping[str, Session],
        calling: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.modality = streamed.modality
        self._chunks: Chunks = chunks_of(streamed.stages)
        self._preprocessor = preprocessor
        tensor = preprocessor.modality.tensors[0]
        shape = tensor.max_shape
        self._axes = len(shape)
        self._window = self._chunks.window(shape[1])
        self.chunk = self._chunks.size
        self._waiting: Array = np.zeros((1, max(self.chunk, self._chunks.lead), *shape[2:]), tensor.dtype)
        self._steps = [_Step(stage, sessions[stage.name], self._chunks) for stage in streamed.stages]
        features = (port.tensor.name for port in streamed.stages[-1].outputs if port.kind != "state")
        self._keys = [(name, f"/{streamed.encoder}.{name}") for name in features]
        self._calling = calling
        self._made: Mapping[str, Array] = {}  # of the last step; it lasts until the next one
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: the next value is the first of a stream."""
        self.encoded: Encoded | None = None
        self.heard = self.behind = 0
        self._taken = 0
        self._begun = False

    def push(self, values: Array) -> Encoded | None:
        """Take in the next values of the stream, and run as many steps as they fill.

        Args:
            values: any number from 1 on along axis 1, [1, n, …] or without the batch, at the model's rate; checked as
                those of a call are. Sound is float32 or float64 from -1 to 1, or int16; [n, channels] is mixed down.

        Returns:
            What the last of the steps gave, or None if there was none, or no whole window was heard yet.

        Raises:
            InputError: if the values are not what the modality takes; nothing was taken in then.
            BackendError: if a runtime cannot run a step, which leaves the stream to be reset.
        """
        if isinstance(values, np.ndarray) and values.ndim == self._axes - 1:
            values = values[None]
        return self.advance(self._preprocessor.chunk(values)[None])

    def advance(self, values: Array) -> Encoded | None:
        """Take in values that `Preprocessor.chunk` has checked, [1, n, …]; see `push`."""
        before, count, waiting = self._taken, values.shape[1], self._waiting
        self.heard += count
        size = self.chunk if self._begun else self._chunks.lead
        start = -self.behind  # of what is next to be taken: below 0 it waits already
        while count - start >= size:
            if start < 0:
                waiting[:, -start:size] = values[:, : start + size]
            full = waiting[:, :size] if start < 0 else values[:, start : start + size]
            start += size
            self.behind = 0
            if self._begun:
                self._step(full)
            else:
                self._begun, size = True, self.chunk
                for step in self._steps:
                    step.begin(full)
        waiting[:, max(0, -start) : count - start] = values[:, max(0, start) :]
        self.behind = count - start
        if self._taken == before or self._taken < self._window:
            return None
        self.encoded = Encoded(self.modality, {key: np.array(self._made[name]) for name, key in self._keys})
        return self.encoded

    def _step(self, chunk: Array) -> None:
        with self._calling():
            for step in self._steps:
                self._made = step.run(chunk)
                chunk = self._made[step.feature]
        self._taken += 1


class _Step:
    """A stage of a step in its session, with its states."""

    def __init__(self, stage: StageSpec, session: Session, chunks: Chunks) -> None:
        self._states = [(port.tensor.name, port.source.tensor) for port in stage.inputs if port.source.kind == "state"]
        taken = {port for port, _ in self._states}
        (self._chunk,) = (port.tensor.name for port in stage.inputs if port.tensor.name not in taken)
        self.feature = next(port.tensor.name for port in stage.outputs if port.kind != "state")
        first = {f"~{stage.name}.{given}": port for port, given in self._states}
        self._leading = first.get(chunks.leading, "")
        self._inputs = [port.tensor for port in stage.inputs]
        self._session = session
        self._bound: Bound | None = None
        if isinstance(session, Stepping):
            self._bound = session.bind(self._states, [self._chunk])
        self._current: dict[str, Array] = {}

    def begin(self, first: Array) -> None:
        """Set the states to zeros, or to the first values of the stream."""
        feeds = {tensor.name: zeros_of_tensor(tensor) for tensor in self._inputs}
        if self._leading:
            feeds[self._leading][:] = first
        self._current = dict(self._bound.begin(feeds)) if self._bound else feeds

    def run(self, chunk: Array) -> Mapping[str, Array]:
        """Run once; what comes out lasts until the next run."""
        if self._bound:
            self._current[self._chunk][:] = chunk
            return self._bound.run()
        made = self._session.run({**self._current, self._chunk: chunk})
        self._current.update({taken: made[given] for taken, given in self._states})
        return made


def streamed_at(streamed: Sequence[Streamed], rung: str) -> dict[str, Streamed]:
    """Return what is encoded chunk by chunk at a rung, by modality.

    Args:
        streamed: of the manifest.
        rung: its name.
    """
    return {one.modality: one for one in streamed if rung in one.rungs}
