"""A modality encoded chunk by chunk, as its values come (decision 120)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from edgefuse.bundle.manifest import Streamed
from edgefuse.bundle.spec import StageSpec, TensorSpec
from edgefuse.bundle.streamed import Chunks, chunks_of
from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import Array, Bound, Session, Stepping
from edgefuse.runtime.graph import zeros_of_tensor


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
    """

    def __init__(
        self,
        streamed: Streamed,
        tensor: TensorSpec,
        sessions: Mapping[str, Session],
        calling: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.modality = streamed.modality
        self._chunks: Chunks = chunks_of(streamed.stages)
        self._shape, self._dtype = tensor.max_shape, np.dtype(tensor.dtype)
        self._window = self._chunks.window(self._shape[1])
        self._steps = [_Step(stage, sessions[stage.name], self._chunks) for stage in streamed.stages]
        features = (port.tensor.name for port in streamed.stages[-1].outputs if port.kind != "state")
        self._keys = [(name, f"/{streamed.encoder}.{name}") for name in features]
        self._calling = calling
        self.reset()

    @property
    def chunk(self) -> int:
        """How many values one step takes, along axis 1: samples of sound."""
        return self._chunks.size

    @property
    def behind(self) -> int:
        """How many values were heard that no step has taken yet: so much older is what is `encoded`."""
        return sum(value.shape[1] for value in self._waiting)

    def reset(self) -> None:
        """Forget what was heard: the next value is the first of a stream."""
        self.encoded: Encoded | None = None
        self.heard = 0
        self._taken = 0
        self._waiting: list[Array] = []
        self._begun = False

    def push(self, values: Array) -> Encoded | None:
        """Take in the next values of the stream, and run as many steps as they fill.

        Args:
            values: any number along axis 1, [1, n, …] or without the batch, at the model's rate. Sound is float32 or
                float64 from -1 to 1, or int16.

        Returns:
            What the last of the steps gave, or None if there was none, or no whole window was heard yet.

        Raises:
            InputError: if the values are not what the modality takes; nothing was taken in then.
            BackendError: if a runtime cannot run a step, which leaves the stream to be reset.
        """
        taken = self._checked(values)
        self.heard += taken.shape[1]
        self._waiting.append(taken)
        before = self._taken
        for chunk in self._filled():
            with self._calling():
                for step in self._steps:
                    made = step.run(chunk)
                    chunk = made[step.feature]
            self._taken += 1
        if self._taken == before or self._taken < self._window:
            return None
        self.encoded = Encoded(self.modality, {key: np.array(made[name]) for name, key in self._keys})
        return self.encoded

    def _filled(self) -> Iterator[Array]:
        """Yield the chunks that are full; the first values of all begin a state."""
        waiting = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, axis=1)
        start = 0
        if not self._begun and waiting.shape[1] >= self._chunks.lead:
            start, self._begun = self._chunks.lead, True
            for step in self._steps:
                step.begin(waiting[:, :start])
        while self._begun and waiting.shape[1] - start >= self.chunk:
            start += self.chunk
            yield waiting[:, start - self.chunk : start]
        self._waiting = [waiting[:, start:].copy()]  # a view would keep all that was pushed

    def _checked(self, values: object) -> Array:
        """Return values as the modality's tensor has them."""
        shape, dtype = self._shape, self._dtype
        if not isinstance(values, np.ndarray):
            what = f"what is pushed to '{self.modality}' is no array"
            raise InputError(what, got=type(values).__name__, expected=f"{dtype} {_open(shape)}")
        found = values[None] if values.ndim == len(shape) - 1 else values
        if dtype == np.float32 and found.dtype in (np.int16, np.float64):
            found = found.astype(np.float32) / np.float32(32768 if found.dtype == np.int16 else 1)
        fitting = found.ndim == len(shape) and found.shape[:1] + found.shape[2:] == shape[:1] + shape[2:]
        if found.dtype != dtype or not fitting:
            what, got = f"what is pushed to '{self.modality}' does not fit it", f"{values.dtype} {list(values.shape)}"
            raise InputError(what, got=got, expected=f"{dtype} {_open(shape)}, n of any size")
        if dtype == np.float32 and not np.isfinite(found).all():
            raise InputError(f"what is pushed to '{self.modality}' holds values that are not finite")
        return found


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


def _open(shape: tuple[int, ...]) -> str:
    return f"[{shape[0]}, n{''.join(f', {size}' for size in shape[2:])}]"
