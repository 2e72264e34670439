"""The clock of a modality, on the time of the stream."""

from __future__ import annotations


class Clock:
    """Puts the times of one modality on the time of the stream.

    The modalities' clocks are taken for one as long as they agree to `jump_s`. One that begins elsewhere (a camera that
    counts from when it was switched on) gets an offset. One that jumps, since its device was started again or its time
    was set, gets a new one: the item after the jump is as old as the stream's newest. A single item with an odd time is
    no jump: the second that fits to it is.

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
        self._astray_s: float | None = None

    def read(self, given_s: float, stream_s: float | None, elapsed_s: float) -> tuple[float | None, bool]:
        """Return a time as the stream's time (None: it fits in no way), and whether the clock has just jumped.

        Args:
            given_s: by the modality's clock.
            stream_s: the newest time of the stream; None before the first.
            elapsed_s: seconds since the stream had that time, by the clock of this machine: a pause is no jump.
        """
        time_s = given_s + self._offset_s
        if stream_s is None or self._fits(time_s, stream_s, elapsed_s):
            self._astray_s = None
            self._newest_s = time_s if self._newest_s is None else max(self._newest_s, time_s)
            return time_s, False
        began = self._newest_s is None
        if began or (self._astray_s is not None and 0 < given_s - self._astray_s <= self._jump_s):
            self._offset_s = stream_s - given_s
            self._newest_s, self._astray_s = stream_s, None
            self.jumps += not began
            return stream_s, not began
        self._astray_s = given_s
        return None, False

    def _fits(self, time_s: float, stream_s: float, elapsed_s: float) -> bool:
        newest_s = stream_s if self._newest_s is None else self._newest_s
        return newest_s - time_s <= self._jump_s and time_s - stream_s - elapsed_s <= self._jump_s
