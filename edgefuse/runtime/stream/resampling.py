"""Sound at another rate, chunk by chunk."""

from __future__ import annotations

from edgefuse.errors import needing
from edgefuse.runtime.backends.backend import Array


class Resampling:
    """Resamples the chunks of a sound as if it were one, with soxr's `ResampleStream` (HQ).

    What comes out lags by the length of the filter, some milliseconds: the last of it comes with the next chunk.

    Args:
        from_hz: of what comes in.
        to_hz: of what goes out.

    Raises:
        MissingExtraError: if soxr is not installed.
    """

    def __init__(self, from_hz: float, to_hz: float) -> None:
        with needing(f"resampling from {from_hz:g} to {to_hz:g} Hz", extra="media"):
            import soxr
        self._stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")

    def __call__(self, steps: Array) -> Array:
        """Return what has become ready, float32 [n]; n may be 0."""
        made: Array = self._stream.resample_chunk(steps)
        return made

    def restart(self) -> None:
        """Begin another sound."""
        self._stream.clear()
