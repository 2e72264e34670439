"""How one modality comes in: its rate, its window, its age, its bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from edgefuse.bundle.spec import AudioPreprocess, Modality, TensorPreprocess, TextPreprocess, largest
from edgefuse.errors import InputError, shown
from edgefuse.runtime.numbers import number_of
from edgefuse.runtime.preprocess.audio import MAX_RATE_HZ, MIN_RATE_HZ

_MOST = 1e12  # of all: what is beyond overflows
_SERIES_ITEMS, _LATEST_ITEMS = 4096, 8
_WHOLE = ("max_items", "max_bytes")
_POSITIVE = ("rate_hz", "window_s", "max_age_s", "jump_s", "max_items", "max_bytes")


@dataclass(frozen=True, kw_only=True)
class Feed:
    """How one modality comes into a stream. What is None takes a value that fits the modality.

    Attributes:
        rate_hz: steps per second of what is pushed. Sound: the model's rate if None, another is resampled. An array:
            with a rate, chunks [1, n, ...] of a series over axis 1; without, each push is a whole input.
        window_s: of a series, how much of it an input is; as much as the model takes if None.
        min_window_s: of a series, how much of it must be there for the modality to be present.
        max_age_s: the modality is absent when its newest data are older. None: 1 s; without a limit for a text.
        reorder_s: data that come later than that after newer ones are late. Nothing waits that is in order: what comes
            after a gap waits so long for what is missing.
        jitter_s: of a series, how much times may differ from the steps' number without being a gap or an overlap.
        jump_s: times that go further ahead, or further back, are a jump of the clock.
        max_items: kept of what no prediction has used. None: 4,096 chunks of a series, else 8.
        max_bytes: kept of it.
        incremental: encode a series chunk by chunk, where the bundle can and the window is the model's.
    """

    rate_hz: float | None = None
    window_s: float | None = None
    min_window_s: float = 0.0
    max_age_s: float | None = None
    reorder_s: float = 0.1
    jitter_s: float = 0.005
    jump_s: float = 5.0
    max_items: int | None = None
    max_bytes: int = 1 << 24
    incremental: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or field.name == "incremental":
                continue
            number = number_of(value, whole=field.name in _WHOLE)
            if number is None or not _is_fine(field.name, number):
                least = "a number above 0" if field.name in _POSITIVE else "a number from 0 on"
                raise InputError(f"the feed's {field.name} makes no sense", got=shown(value, 80), expected=least)
            object.__setattr__(self, field.name, number)
        if self.jump_s <= self.reorder_s:
            raise InputError(
                "a feed that reorders further than its clock may jump",
                got=f"reorder_s={self.reorder_s:g}, jump_s={self.jump_s:g}",
                expected="a smaller reorder_s",
            )

    def is_series(self, modality: Modality) -> bool:
        """Return whether a modality comes in steps."""
        if isinstance(modality.preprocess, AudioPreprocess):
            return True
        return isinstance(modality.preprocess, TensorPreprocess) and self.rate_hz is not None

    def check_whole(self, modality: Modality) -> None:
        """Refuse what only a series has.

        Raises:
            InputError: with its names.
        """
        given = [name for name in ("rate_hz", "window_s", "min_window_s") if getattr(self, name)]
        if given:
            raise InputError(
                f"'{modality.name}' does not come in steps",
                got=f"a feed with {' and '.join(given)}",
                expected="a feed without, or, for an array over time, one with a rate_hz",
            )

    def is_incremental(self, modality: Modality) -> bool:
        """Return whether a modality is to be encoded chunk by chunk, if it can be."""
        if not self.incremental or not self.is_series(modality):
            return False
        return self.window_steps(modality) == largest(modality.tensors[0].shape[1])

    def age_limit_s(self, modality: Modality) -> float:
        """Return the maximum age."""
        if self.max_age_s is not None:
            return self.max_age_s
        return math.inf if isinstance(modality.preprocess, TextPreprocess) else 1.0

    def item_limit(self, modality: Modality) -> int:
        """Return how many items are kept."""
        return self.max_items or (_SERIES_ITEMS if self.is_series(modality) else _LATEST_ITEMS)

    def rates_hz(self, modality: Modality) -> tuple[float, float]:
        """Return the steps per second of what is pushed to a series, and of what the model takes."""
        if isinstance(modality.preprocess, AudioPreprocess):
            model_hz = modality.preprocess.sample_rate_hz
            if self.rate_hz is not None and not MIN_RATE_HZ <= self.rate_hz <= MAX_RATE_HZ:
                expected = f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
                raise InputError(
                    f"the rate of '{modality.name}' makes no sense", got=f"{self.rate_hz:g}", expected=expected
                )
            return self.rate_hz or model_hz, model_hz
        if self.rate_hz is None:
            raise InputError(f"the series '{modality.name}' has no rate", expected="Feed(rate_hz=…)")
        return self.rate_hz, self.rate_hz

    def window_steps(self, modality: Modality) -> int:
        """Return how many steps of a series the model's input is, at the model's rate.

        Raises:
            InputError: if the model takes fewer, or the modality has several arrays.
        """
        if len(modality.tensors) > 1 or len(modality.tensors[0].shape) <= 1:
            got = ", ".join(tensor.name for tensor in modality.tensors)
            raise InputError(f"'{modality.name}' is no series of one array over axis 1", got=got)
        most = largest(modality.tensors[0].shape[1])
        if self.window_s is None:
            return most
        steps = round(self.window_s * self.rates_hz(modality)[1])
        if not 1 <= steps <= most:
            raise InputError(
                f"the window of '{modality.name}' does not fit the model",
                got=f"{self.window_s:g} s, {steps} steps",
                expected=f"1 to {most} steps",
            )
        return steps

    def least_steps(self, modality: Modality) -> int:
        """Return how many steps of a series must be there, at the model's rate.

        Raises:
            InputError: if a window never has as many.
        """
        least, steps = round(self.min_window_s * self.rates_hz(modality)[1]), self.window_steps(modality)
        if least > steps:
            raise InputError(
                f"the min_window_s of '{modality.name}' is more than a window has",
                got=f"{self.min_window_s:g} s, {least} steps",
                expected=f"0 to {steps} steps",
            )
        return least


def _is_fine(name: str, value: float) -> bool:
    if value > _MOST and name != "max_age_s":
        return False
    return value > 0 if name in _POSITIVE else value >= 0  # which NaN is not
