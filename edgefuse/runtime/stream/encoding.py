"""A series that is encoded chunk by chunk."""

from __future__ import annotations

from edgefuse.errors import BackendError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.incremental import Incremental
from edgefuse.runtime.stream.source import Value


class Encoding:
    """An encoder with states, and up to which step of a window it has heard.

    It is given what a window has got since it was asked last. Where that is not a continuation (the window began anew,
    or went on without it for longer than that), it begins anew with a whole window, and encodes that as a whole call
    does.

    Args:
        encoder: of the modality, at the rung that runs.
        rate_hz: steps per second.
    """

    def __init__(self, encoder: Incremental, rate_hz: float) -> None:
        self._encoder, self._rate_hz = encoder, rate_hz
        self._heard: tuple[int, int] | None = None

    def missing(self, serial: int, at: int, count: int) -> int:
        """Return how many of the last steps of a whole window it has not heard; all of them if it has to begin anew.

        Args:
            serial: of the window.
            at: the step after its last one.
            count: its steps.
        """
        taken = self._taken(serial)
        return count if taken is None else min(count, max(0, at - taken))

    def _taken(self, serial: int) -> int | None:
        """Return the step after the last one that was taken from a window; None if it has to begin anew."""
        return self._heard[1] if self._heard is not None and self._heard[0] == serial else None

    def __call__(self, serial: int, at: int, at_s: float, steps: Array) -> Value:
        """Return the features of the window that ends at a step, or up to a chunk before.

        Args:
            serial: of the window.
            at: the step after the last of `steps`.
            at_s: its time.
            steps: what follows on what was taken, or a whole window.

        Raises:
            BackendError: if a runtime cannot run a step.
        """
        encoder = self._encoder
        if len(steps):
            if self._taken(serial) != at - len(steps):
                encoder.reset()
            self._heard = None  # a step that fails leaves states to be begun anew
            encoder.advance(steps[None])
            self._heard = serial, at
        if encoder.encoded is None or self._heard is None:
            raise BackendError(f"the encoder of '{encoder.modality}' gave nothing", got="a whole window")
        ends = self._heard[1] - encoder.behind
        ends_s = at_s - (at - ends) / self._rate_hz
        return Value(encoder.encoded.values, ends_s, (serial, id(encoder), ends), encoded=True)
