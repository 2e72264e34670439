"""Files and rungs timed together, without those that cannot be: one of them never ends a target, or a compile.

They are timed in one interleaved run, whose error does not say which of them it is of. They are halved until it is
known, each half beside the float files that all are compared with; the rest is then timed together once more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.timing.timer import Contender, DraftRung, RungTimes, StageTime, Timer
from edgefuse.errors import CacheError, DeviceError, DeviceTaskError, EdgefuseError, EngineError

logger = logging.getLogger(__name__)

C = TypeVar("C")
R = TypeVar("R")


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
    times, refused = _together(
        lambda files: timer.stage(stage, files, threads), contenders[:1], contenders[1:], lambda one: one.built.id
    )
    for one, why in refused.items():
        logger.warning("%s is left out, because it cannot be timed: %s", one, why)
    return times, refused


def rung_times(
    time: Callable[[Sequence[DraftRung]], RungTimes], drafts: Sequence[DraftRung]
) -> tuple[RungTimes, dict[str, str]]:
    """Compare rungs; return what each takes, and why others cannot be timed, by their keys.

    If the float rung of a target is among these, so are all of that target: their speed-ups are over it.

    Args:
        time: compares rungs, the float one of each target among them.
        drafts: the rungs of all targets.

    Raises:
        EdgefuseError: if no target's float rung can be timed, or it is not a rung's fault.
    """
    try:
        return time(drafts), {}
    except EdgefuseError as error:
        if of_the_world(error):
            raise
        floats = [draft for draft in drafts if draft.key == draft.float_key]
        refused: dict[str, str] = {}
        for one in floats:
            refused |= _refused(time, (), [one], lambda draft: draft.key)
        if len(refused) == len(floats):
            raise
    refused |= {one.key: refused[one.float_key] for one in drafts if one.float_key in refused}
    left = [one for one in drafts if one.key not in refused]
    first, others = ([one for one in left if (one.key == one.float_key) == wanted] for wanted in (True, False))
    times, more = _together(time, first, others, lambda draft: draft.key)
    return times, refused | more


def _together(
    time: Callable[[Sequence[C]], R], first: Sequence[C], others: Sequence[C], name: Callable[[C], str]
) -> tuple[R, dict[str, str]]:
    """Time contenders together; return what comes of it, and why some of the others were left out.

    Args:
        time: times contenders together.
        first: what the others are compared with.
        others: that can be left out.
        name: of a contender.
    """
    try:
        return time([*first, *others]), {}
    except EdgefuseError as error:
        if of_the_world(error) or not others:
            raise
    time(first)
    refused = _refused(time, first, others, name)
    return time([*first, *(one for one in others if name(one) not in refused)]), refused


def _refused(
    time: Callable[[Sequence[C]], object], first: Sequence[C], others: Sequence[C], name: Callable[[C], str]
) -> dict[str, str]:
    """Return why some of the others cannot be timed, by name; arguments are those of `_together`."""
    try:
        time([*first, *others])
    except EdgefuseError as error:
        if of_the_world(error):
            raise
        if len(others) == 1:
            return {name(others[0]): str(error)}
        half = len(others) // 2
        return _refused(time, first, others[:half], name) | _refused(time, first, others[half:], name)
    return {}
