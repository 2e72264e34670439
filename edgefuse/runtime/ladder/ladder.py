"""The controller: when to go down the ladder, how far, and when to come back.

Down: when deadlines are missed, to the first rung that is expected to hold them, from what predictions took just now
and from how much faster the bundle's figures say it is; or a step at a time while a signal of the device is beyond its
limit. Up: when a rung has been expected to fit for a while and no signal is near its limit. What is missed in these
expectations shows when a rung fails after it was tried; it then waits, twice as long each time (exponential backoff).
A process under a quota, or on processors that others fill, runs at full speed until it wants more than its part: so a
rung must fit into the processors that are there, too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from edgefuse.bundle.manifest import Figure, Manifest
from edgefuse.errors import cited
from edgefuse.runtime.ladder.alarms import Alarms
from edgefuse.runtime.ladder.reading import Reading, Signals
from edgefuse.runtime.ladder.replay import Replay
from edgefuse.runtime.ladder.settings import Settings
from edgefuse.runtime.ladder.steps import Change, Step, steps_of
from edgefuse.runtime.ladder.window import Window

logger = logging.getLogger(__name__)

_FEWEST_MISSED = 2


class Ladder:
    """Moves one stream of predictions between the rungs of a bundle. It reads no clock, and is not for several threads.

    Args:
        manifest: of the bundle.
        signals: what the device says of itself; nothing if None.
        settings: limits and waiting times.
        figures: of the rungs, measured on this device (`edgefuse prepare`); the bundle's own if None.
        rung: that it begins at, and comes back to; the bundle's default if None.

    Attributes:
        steps: what there is to be at, the first one without any trouble.
        answered: how many predictions were observed at each step, since these are its steps.

    Raises:
        InputError: if a modality that the settings let it leave out cannot be left out.
    """

    def __init__(
        self,
        manifest: Manifest,
        signals: Signals | None = None,
        settings: Settings | None = None,
        *,
        figures: Mapping[str, Figure] | None = None,
        rung: str | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._signals, self._deaf = signals or Replay(()), False
        self._manifest, self._figures = manifest, figures
        self._window, self._alarms = Window(self._settings.window_s), Alarms(self._settings)
        self._reading, self._read_s = Reading(), -math.inf
        self._changed_s, self._up = -math.inf, False
        self._alarmed = False
        self._begin(rung)

    def _begin(self, rung: str | None) -> None:
        """Stand at the first step, at a rung of the bundle."""
        self.steps = steps_of(self._manifest, self._settings.may_drop, self._figures, rung)
        self.answered = [0] * len(self.steps)
        self._at = 0
        self._fits_since_s = math.inf
        self._waits_s = [self._settings.first_wait_s] * len(self.steps)
        self._barred_until_s = [-math.inf] * len(self.steps)

    @property
    def step(self) -> Step:
        """Where it is now."""
        return self.steps[self._at]

    def promised(self) -> dict[str, float]:
        """Return, by subset of the modalities, what the steps promise on average for all predictions so far."""
        count = sum(self.answered)
        found: dict[str, float] = {}
        for step, answered in zip(self.steps, self.answered, strict=True):
            for price in step.price:
                found[price.subset] = found.get(price.subset, 0.0) + price.now * answered / max(count, 1)
        return found if count else {}

    def observe(self, now_s: float, took_s: float, deadline_s: float, rung: str | None = None) -> None:
        """Take note of a prediction.

        If it ran at another rung than this ladder stands at, somebody else had chosen that, and it goes on from there:
        at the step of that rung or, if no step has it, as one that begins at it.

        Args:
            now_s: when it was there, in seconds of a clock that never goes back.
            took_s: how long it took since its inputs were due.
            deadline_s: how long it might have taken; infinite if there is no deadline.
            rung: at which it ran; that of `step` if None.
        """
        if rung is not None and rung != self.step.rung:
            self._stand(rung)
        self._window.add(now_s, took_s, deadline_s)
        self.answered[self._at] += 1

    def decide(self, now_s: float) -> Change | None:
        """Return a change of the rung, or of what is left out, if one is due now; it counts as made.

        Args:
            now_s: the time, by the clock of `observe`.
        """
        if now_s - self._read_s >= self._settings.every_s:
            self._reading, self._read_s = self._read(now_s), now_s
        held_s = now_s - self._changed_s
        if held_s > self._settings.trial_s:
            self._waits_s[self._at] = self._settings.first_wait_s
        alarm = self._alarms.cause(now_s)
        down = self._down(alarm)
        up = self._up_to(now_s) if down is None else None
        self._fits_since_s = min(self._fits_since_s, now_s) if up is not None else math.inf
        if held_s < self._settings.hold_s:
            return None
        if down is not None:
            step, cause = down
            self._alarmed = alarm is not None
            if self._up and held_s <= self._settings.trial_s:
                self._failed(now_s)
            return self._go(now_s, step, cause)
        if up is not None and now_s - self._fits_since_s >= self._settings.calm_s:
            window = self._window
            expected = f", {window.used * self._ratio(up):.0%} is expected" if window.used else ""
            return self._go(now_s, up, f"predictions take {window.used:.0%} of the deadline{expected}")
        return None

    def _stand(self, rung: str) -> None:
        """Go on from a rung that somebody else has chosen."""
        if all(one.name != rung for one in self._manifest.rungs):  # that of another bundle, of which nothing is known
            return
        self._window.clear()
        self._fits_since_s, self._up, self._alarmed = math.inf, False, False
        at = next((number for number, step in enumerate(self.steps) if step.rung == rung), None)
        if at is not None:
            self._at = at
        else:
            self._begin(rung)

    def _read(self, now_s: float) -> Reading:
        """Return what the device says now, held against the limits: nothing, where it fails or cannot be held."""
        try:
            reading = self._signals.read(now_s)
            self._alarms.look(now_s, reading)
        except Exception as error:  # noqa: BLE001 - a user's own code may raise or return anything; predictions go on
            if not self._deaf:
                logger.warning("the ladder goes on without a reading of the device: %s", cited(error))
            self._deaf, reading = True, Reading()
            self._alarms.look(now_s, reading)
        return reading

    def _down(self, alarm: str | None) -> tuple[int, str] | None:
        """Return the step further down that is needed, and why; None if none is, or there is none."""
        if self._at == len(self.steps) - 1:
            return None
        window = self._window
        if window.missed >= _FEWEST_MISSED and window.missed > self._settings.most_missed * window.count:
            cause = f"{window.missed} of {window.count} deadlines were missed in {window.elapsed_s:.2g} s"
            return self._holding(window.used_of_missed), f"{cause}, and {alarm}" if alarm else cause
        return (self._at + 1, alarm) if alarm else None

    def _holding(self, used: float) -> int:
        """Return the first step down that is expected to hold a deadline, as far as expectations go: to the last rung.

        Args:
            used: of the deadline, what predictions take here.
        """
        below = [number for number in range(self._at + 1, len(self.steps)) if not self.steps[number].without]
        holding = (number for number in below if used * self._ratio(number) <= self._settings.fits)
        return next(holding, below[-1] if below else self._at + 1)

    def _up_to(self, now_s: float) -> int | None:
        """Return the step further up that is expected to fit; None if none is.

        Where a signal of the device was why it went down, or times are not known, it is the next one.
        """
        window = self._window
        if not self._at or not window.count or not self._alarms.clear or self._alarms.cause(now_s):
            return None
        one_by_one = self._alarmed or bool(self.step.without)
        first = self._at - 1 if one_by_one else 0
        fits, most = self._settings.fits, self._reading.processors
        for number in range(first, self._at):
            ratio = self._ratio(number)
            barred = any(until_s > now_s for until_s in self._barred_until_s[number : self._at])
            crowded = most is not None and window.busy * ratio > fits * most
            if not barred and not crowded and window.used * ratio <= fits:
                return number
        return None

    def _ratio(self, number: int) -> float:
        """Return how many times longer a prediction takes at another step than at this one, where that is known."""
        here, there = (self.steps[one].time or self._last_time(one) for one in (self._at, number))
        return there / here if here and there else 1.0

    def _last_time(self, number: int) -> float | None:
        """Return the time of the rung of a step that leaves something out."""
        return next((step.time for step in self.steps if step.rung == self.steps[number].rung), None)

    def _failed(self, now_s: float) -> None:
        """Keep the step that was just tried from being tried again for a while."""
        wait_s = self._waits_s[self._at]
        self._barred_until_s[self._at] = now_s + wait_s
        self._waits_s[self._at] = min(2 * wait_s, self._settings.longest_wait_s)

    def _go(self, now_s: float, number: int, cause: str) -> Change:
        self._up, self._at, self._changed_s = number < self._at, number, now_s
        self._fits_since_s = math.inf
        self._window.clear()
        change = Change(self.step.rung, self.step.without, cause, self.step.price)
        logger.info("%s %s", "up" if self._up else "down", change)
        return change
