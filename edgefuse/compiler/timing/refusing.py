"""Files of a stage timed together, without those that cannot be: one of them never ends a target.

Files are timed in one interleaved run, whose error does not say which of them it is of. They are halved until it is
known, each half beside the float file that all are compared with; the rest is then timed together once more.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.timing.timer import Contender, StageTime, Timer
from edgefuse.errors import CacheError, DeviceError, DeviceTaskError, EdgefuseError, EngineError

logger = logging.getLogger(__name__)


def of_the_world(error: EdgefuseError) -> bool:
    """Tell whether an error says nothing of a file: a device went away, or a disk is full."""
    return isinstance(error, DeviceError | CacheError | EngineError) and not isinstance(error, DeviceTaskError)


def stage_times(
    timer: Timer, stage: StageSpec, contenders: Sequence[Contender], threads: int
) -> tuple[Mapping[str, StageTime], dict[str, str]]:
    """Compare files of one stage; return what each takes, and why others cannot be timed, by the candidate's id.

    Args:
        timer: that compares them.
        stage: what they are files of.
        contenders: the first one is what the others' speed-ups are over.
        threads: of the runtime.

    Raises:
        EdgefuseError: if the first cannot be timed either, or it is not a file's fault.
    """
    try:
        return timer.stage(stage, contenders, threads), {}
    except EdgefuseError as error:
        if of_the_world(error) or len(contenders) == 1:
            raise
    search = _Search(timer, stage, contenders[0], threads)
    search.time(())
    refused = search.refused(contenders[1:])
    for name, why in refused.items():
        logger.warning("%s is left out, because it cannot be timed: %s", name, why)
    return timer.stage(stage, [one for one in contenders if one.built.id not in refused], threads), refused


class _Search:
    """Looks for the files of a stage that cannot be timed."""

    def __init__(self, timer: Timer, stage: StageSpec, first: Contender, threads: int) -> None:
        self._timer = timer
        self._stage = stage
        self._first = first
        self._threads = threads

    def time(self, others: Sequence[Contender]) -> None:
        """Time files beside the first; errors are those of the timer."""
        self._timer.stage(self._stage, [self._first, *others], self._threads)

    def refused(self, others: Sequence[Contender]) -> dict[str, str]:
        """Return why files cannot be timed, by id."""
        try:
            self.time(others)
        except EdgefuseError as error:
            if of_the_world(error):
                raise
            if len(others) == 1:
                return {others[0].built.id: str(error)}
            half = len(others) // 2
            return self.refused(others[:half]) | self.refused(others[half:])
        return {}
