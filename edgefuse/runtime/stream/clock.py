"""The clock of a modality, on the time of the stream."""

from __future__ import annotations

_CATCHES_UP = 1.1  # times as fast as the stream: what was held back and comes now, and no clock that is slow


class Clock:
    """Puts the times of one modality on the time of the stream.

    The modalities' clocks are taken for one as long as they agree to `jump_s`. One that begins elsewhere (a camera that
    counts from when it was switched on) gets an offset. One that jumps, since its device was started again or its time
    was set, gets a new one: the item after the jump is as old as the stream's newest. A single item with an odd time is
    no jump: the second that fits to it is. One that has fallen behind the stream gets a new one, too, when it has been
    behind for `jump_s` without catching up: data that were held back on their way keep their times.

    Args:
        jump_s: what is further ahead of the stream's time, or further back than this modality's newest, is a jump.

    Attributes:
        jumps: so far.
    """

    def __init__(self, jump_s: float) -> None:
        self.jumps = 0
        self._jump_s = jump_s
        self._offset_s = 0.0
        self._newest_s: float | None = None
        self._astray: tuple[float, float] | None = None  # a time that fits in no way, and when on the stream it came
        self._behind: tuple[float, float] | None = None  # of the first item that was behind

    def read(self, given_s: float, stream_s: float | None, elapsed_s: float) -> tuple[float | None, bool]:
        """Return a time as the stream's time (None: it fits in no way), and whether the clock has just jumped.

        Args:
            given_s: by the modality's clock.
            stream_s: the newest time of the stream; None before the first.
            elapsed_s: seconds since the stream had that time, by the clock of this machine: a pause is no jump.
        """
        time_s, newest_s = given_s + self._offset_s, self._newest_s
        if stream_s is None:
            stream_s = time_s
        lag_s = stream_s - time_s
        back_s = lag_s if newest_s is None else newest_s - time_s
        here = given_s, stream_s + elapsed_s
        if back_s <= self._jump_s and -lag_s - elapsed_s <= self._jump_s:
            if lag_s <= self._jump_s:
                self._behind = None
            elif self._has_fallen_behind(here):
                return self._set(given_s, stream_s)
            self._astray = None
            if newest_s is None or time_s > newest_s:
                self._newest_s = time_s
            return time_s, False
        if newest_s is None or self._goes_on_astray(here):
            return self._set(given_s, stream_s)
        self._astray = here
        return None, False

    def _set(self, given_s: float, stream_s: float) -> tuple[float, bool]:
        """Take an offset by which a time is the stream's newest."""
        jumped = self._newest_s is not None
        self._offset_s, self._newest_s = stream_s - given_s, stream_s
        self._astray = self._behind = None
        self.jumps += jumped
        return stream_s, jumped

    def _goes_on_astray(self, here: tuple[float, float]) -> bool:
        """Return whether the last odd time and this one are of one clock, which went on as the stream did."""
        if self._astray is None:
            return False
        given_s, stream_s = here[0] - self._astray[0], here[1] - self._astray[1]
        return given_s > 0 and abs(given_s - stream_s) <= self._jump_s

    def _has_fallen_behind(self, here: tuple[float, float]) -> bool:
        """Return whether it has been behind for long, and does not catch up."""
        since = self._behind = self._behind or here
        given_s, stream_s = here[0] - since[0], here[1] - since[1]
        if given_s > _CATCHES_UP * stream_s:
            self._behind = here
            return False
        return stream_s >= self._jump_s
