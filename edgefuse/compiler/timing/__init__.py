"""How candidates and rungs are compared: in milliseconds that were measured, or by a cost that was counted.

- `timer`: the protocol of a timer;
- `here`: measures on this machine;
- `remote`: measures on a device;
- `proxy`: counts a cost where nothing can be measured;
- `refusing`: files that cannot be timed are left out;
- `kept`: timings in the cache;
- `figures`: figures of every candidate alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgefuse import registry
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.compiler.timing.here import Here
from edgefuse.compiler.timing.proxy import JETSON, Proxy
from edgefuse.compiler.timing.remote import Remote
from edgefuse.compiler.timing.timer import Contender, DraftRung, RungTimes, StageTime, Timer
from edgefuse.errors import RecipeError
from edgefuse.export.target import Target
from edgefuse.runtime.backends.backend import Backend, StandIn
from edgefuse.runtime.processor import processor

__all__ = ["HERE", "Contender", "DraftRung", "RungTimes", "StageTime", "Timer", "is_emulated", "timer_of"]

HERE = Here()
ARCHITECTURES = {"arm64": "aarch64"}
"""Of the devices that a recipe can name, besides `host`."""


def timer_of(recipe: Recipe) -> Timer:
    """Return the timer of a recipe: of the device that it names, or this machine where it is like it.

    Raises:
        RecipeError: if the recipe limits milliseconds that nothing here can measure, or wants some targets measured and
            others counted.
    """
    if recipe.device.uri is not None:
        return Remote(recipe.device.uri, recipe.device.python, recipe.device.timeout_seconds)
    emulated = [target for target in recipe.compile.members if is_emulated(_backend_of(target))]
    if emulated:
        return _for_the_gpu(recipe, emulated)
    own = processor().architecture
    architecture = ARCHITECTURES.get(recipe.compile.device, own)
    if architecture == own:
        return HERE
    _refuse_milliseconds(recipe, recipe.compile.device)
    return Proxy(architecture)


def is_emulated(backend: Backend) -> bool:
    """Tell whether a backend runs files in place of a device's runtime, so that its times mean nothing."""
    return isinstance(backend, StandIn) and backend.emulated


def _backend_of(target: str) -> Backend:
    made: Target = registry.create("targets", target)
    backend: Backend = registry.create("backends", made.backend)
    return backend


def _for_the_gpu(recipe: Recipe, emulated: Sequence[str]) -> Timer:
    """Return the timer where there is no GPU, for targets that need one."""
    if list(recipe.compile.members) != list(emulated):
        raise RecipeError(
            "[compile] targets cannot be compared with each other",
            got=f"{', '.join(recipe.compile.targets)} on a host without a GPU",
            expected=f"{' or '.join(emulated)} by itself: its costs are counted, and the others' milliseconds measured",
            fix="compile them one after the other, or name a device that has a GPU under [device]",
        )
    _refuse_milliseconds(recipe, "a GPU")
    return Proxy("aarch64", roofline=JETSON)


def _refuse_milliseconds(recipe: Recipe, device: str) -> None:
    if recipe.search.max_latency_ms is not None:
        raise RecipeError(
            "[search] max_latency_ms cannot be checked",
            got=f"a limit for {device}, where nothing is measured",
            expected="max_latency_share, which a cost can hold too",
            fix="name a device of that kind under [device], or leave the limit out",
        )
