"""Which step of a series is at which time."""

from __future__ import annotations

_MEMORY = 16  # chunks


class Grid:
    """The steps of a series on the time of the stream: all that turns times into steps, and steps into times.

    Steps are counted from the time 0, and lie between its multiples: the first chunk's time says where (the *phase*).
    The times of those that come after it pull the phase along, by a part of what they miss it by (the mean of the first
    16; from then on a phase-locked loop of the first order), so that a device whose rate is not quite what it says has
    neither gaps nor overlaps. Predictions go by a phase that stays until the other is further from it than the jitter:
    of which steps a prediction is that is due, does not depend on what is pushed before it is made.

    Args:
        given_hz: steps per second of what is pushed.
        model_hz: of what the model takes.
        jitter_s: by how much the times of steps that are told may be wrong.
    """

    def __init__(self, given_hz: float, model_hz: float, jitter_s: float) -> None:
        self._given_hz, self._model_hz, self._jitter_s = given_hz, model_hz, jitter_s
        self._phase_s = self._told_s = 0.0
        self._chunks = 0  # up to the memory

    def begin(self, time_s: float) -> None:
        """Take the phase of the first chunk, by its time."""
        self._phase_s = self._told_s = time_s - round(time_s * self._given_hz) / self._given_hz
        self._chunks = 0

    def follow(self, time_s: float, place: int) -> None:
        """Take note of the time of a chunk that was taken to begin at a step of what is pushed."""
        if self._chunks < _MEMORY:
            self._chunks += 1
        missed_s = time_s - self._phase_s - place / self._given_hz
        self._phase_s = phase_s = self._phase_s + missed_s / self._chunks
        if not -self._jitter_s <= phase_s - self._told_s <= self._jitter_s:
            self._told_s = phase_s

    def place(self, time_s: float) -> int:
        """Return the step of what is pushed at a time."""
        return round((time_s - self._phase_s) * self._given_hz)

    def step(self, time_s: float) -> int:
        """Return the step of what the model takes at a time."""
        return round((time_s - self._told_s) * self._model_hz)

    def time_s(self, step: int) -> float:
        """Return the time of a step of what the model takes."""
        return step / self._model_hz + self._told_s

    def end_s(self, place: int) -> float:
        """Return the time of a step of what is pushed."""
        return place / self._given_hz + self._told_s

    def at_model_rate(self, place: int) -> int:
        """Return the step of what the model takes where one of what is pushed is."""
        return place if self._given_hz == self._model_hz else round(place * self._model_hz / self._given_hz)
