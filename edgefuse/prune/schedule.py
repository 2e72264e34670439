"""The gradual schedule: a ratio above one half is reached in steps, with a recovery after each.

Every step after the first removes about the same share of what is left, as in iterative pruning (Han et al.
arXiv:1506.02626; Frankle & Carbin arXiv:1803.03635), so that no step asks for more than the one before. The cubic
schedule of Zhu & Gupta (arXiv:1710.01878) also removes less and less, but its last steps are so small that they are
not worth a recovery each.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from edgefuse.errors import PruneError

_AT_ONCE = 0.5
"""The largest ratio that is reached in one step."""

_KEPT = 0.7
"""The least share of the rest that a later step keeps."""

Prune = Callable[[nn.Module, float], nn.Module]
"""A module and the share of it to remove, to a pruned copy."""

Recover = Callable[[nn.Module, float], nn.Module]
"""A pruned module and the ratio reached since the beginning, to a recovered one; a short recovery will do below the
last ratio."""


def plan(ratio: float) -> tuple[float, ...]:
    """Return the ratios, ascending, through which a ratio is reached; the last is the ratio itself.

    Up to one half it is reached at once: `plan(0.75)` is about 0.5, 0.65, 0.75.

    Raises:
        PruneError: a ratio that removes nothing or everything.
    """
    if not 0 < ratio < 1:
        raise PruneError("the ratio of a pruning schedule is out of range", got=ratio, expected="between 0 and 1")
    if ratio <= _AT_ONCE:
        return (ratio,)
    rest = (1 - ratio) / (1 - _AT_ONCE)
    steps = math.ceil(math.log(rest) / math.log(_KEPT) - 1e-9)
    between = [1 - (1 - _AT_ONCE) * rest ** (step / steps) for step in range(steps)]
    return (*between, ratio)


def share_of_rest(reached: float, ratio: float) -> float:
    """Return which share of what is left after `reached` must go so that `ratio` of the whole is gone."""
    return (ratio - reached) / (1 - reached)


def gradually(module: nn.Module, ratio: float, prune: Prune, recover: Recover) -> nn.Module:
    """Prune and recover in turn until a ratio is reached.

    Args:
        module: the unpruned module.
        ratio: of what the method removes, gone at the end.
        prune: called once per step, with the share of the rest to remove.
        recover: called after each, with the ratio reached.
    """
    reached = 0.0
    for target in plan(ratio):
        module = recover(prune(module, share_of_rest(reached, target)), target)
        reached = target
    return module
