"""How candidates and rungs are compared: in milliseconds that were measured, or by a cost that was counted.

- `timer`: the protocol of a timer;
- `here`: measures on this machine;
- `remote`: measures on a device;
- `proxy`: counts a cost where nothing can be measured;
- `refusing`: files and rungs that cannot be timed are left out;
- `kept`: timings in the cache;
- `figures`: figures of every candidate alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from edgefuse import registry
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.compiler.timing.here import Here
from edgefuse.compiler.timing.proxy import ARM_CORE, Proxy
from edgefuse.compiler.timing.remote import Remote
from edgefuse.compiler.timing.timer import Contender, DraftRung, RungTimes, StageTime, Timer
from edgefuse.errors import RecipeError
from edgefuse.export.cost_graph import Roofline
from edgefuse.export.target import Rated, Target
from edgefuse.runtime.backends.backend import Backend, StandIn
from edgefuse.runtime.processor import processor

__all__ = [
    "HERE",
    "Contender",
    "DraftRung",
    "RungTimes",
    "StageTime",
    "Timer",
    "is_emulated",
    "roofline_of",
    "timer_of",
]

HERE = Here()
ROOFLINES = {"arm64": ARM_CORE}
"""Of the devices that a recipe can name, besides `host`."""


def timer_of(recipe: Recipe) -> Timer:
    """Return the timer of a recipe: of the device that it names, or this machine where it is like it.

    Raises:
        RecipeError: if the recipe limits milliseconds that nothing here can measure, or wants some targets measured and
            others counted.
    """
    if recipe.device.uri is not None:
        return Remote(recipe.device.uri, recipe.device.python, recipe.device.timeout_seconds)
    absent = {target: backend for target in recipe.compile.members if is_emulated(backend := _backend_of(target))}
    if absent:
        return _counted(recipe, absent)
    device = recipe.compile.device
    roofline = ROOFLINES.get(device)
    if roofline is None or roofline.architecture == processor().architecture:
        return HERE
    _refuse_milliseconds(recipe, device)
    return Proxy(roofline)


def is_emulated(backend: Backend) -> TypeGuard[StandIn]:
    """Tell whether a backend runs files in place of a device's runtime, so that its times mean nothing."""
    return isinstance(backend, StandIn) and bool(backend.stand_in)


def roofline_of(target: str) -> Roofline:
    """Return that of the processor for which a target's costs are counted where its device is not there."""
    made: Target = registry.create("targets", target)
    return made.roofline if isinstance(made, Rated) else ARM_CORE


def _backend_of(target: str) -> Backend:
    made: Target = registry.create("targets", target)
    backend: Backend = registry.create("backends", made.backend)
    return backend


def _counted(recipe: Recipe, absent: Mapping[str, StandIn]) -> Timer:
    """Return the timer where targets need a device that is not there."""
    device = next(iter(absent.values())).device
    rooflines = {roofline_of(target) for target in absent}
    if list(recipe.compile.members) != list(absent) or len(rooflines) > 1:
        raise RecipeError(
            "[compile] targets cannot be compared with each other",
            got=f"{', '.join(recipe.compile.targets)} on a host without a {device}",
            expected=f"{' or '.join(absent)} by itself: its costs are counted, and the others' milliseconds measured",
            fix=f"compile them one after the other, or name a device that has a {device} under [device]",
        )
    _refuse_milliseconds(recipe, f"a {device}")
    return Proxy(rooflines.pop())


def _refuse_milliseconds(recipe: Recipe, device: str) -> None:
    if recipe.search.max_latency_ms is not None:
        raise RecipeError(
            "[search] max_latency_ms cannot be checked",
            got=f"a limit for {device}, where nothing is measured",
            expected="max_latency_share, which a cost can hold too",
            fix="name a device of that kind under [device], or leave the limit out",
        )
