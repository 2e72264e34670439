"""Sentences about the ladder that a recipe asks for: how far apart its rungs are, and how far down they go."""

from __future__ import annotations

from collections.abc import Iterator

from edgefuse.compiler.report.compiled import Compiled
from edgefuse.compiler.search.frontier import WORTH

_HELP = (
    "Nothing that was judged is so fast at a drop that a rung may have, or it lies too near to another; smaller forms "
    "([prune]) and more passes ([search] max_fusion_passes) help."
)


def ladders(made: Compiled) -> Iterator[str]:
    """Say of each target what its ladder came to, end to end; nothing where none was asked for."""
    asked = made.subject.recipe.ladder
    if asked is None:
        return
    for target, rungs in made.rungs.items():
        times = made.timings.rungs[target]
        first = rungs[0].name
        faster = [rung.name for rung in rungs[1:] if times[rung.name].p50 <= (1 - WORTH) * times[first].p50]
        below = sorted(faster, key=lambda name: -times[name].p50)
        shares = [times[name].p50 / times[first].p50 for name in below]
        steps = ", ".join(f"{name} {share:.0%}" for name, share in zip(below, shares, strict=True))
        said = f"of the time of '{first}' its rungs take: {steps}" if below else f"it has no rung below '{first}'"
        deep = bool(shares) and shares[-1] <= asked.down_to
        yield f"{target}, ladder: {said}" + ("." if deep else f"; {asked.down_to:.0%} was asked for. {_HELP}")
