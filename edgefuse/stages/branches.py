"""Branches of a model on sizes that its spec leaves open: a trace holds the one side that the largest sizes take.

Torch notes what it assumed of a size as a guard: `if x.shape[1] > 8` leaves `s > 8`. At a size where a guard does not
hold, the traced graph may be another computation than the model's, so that is where answers are to be compared.
"""

from __future__ import annotations

import contextlib
import itertools
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Torch has no public way to ask what it assumed of a size, or where.
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from edgefuse.bundle.spec import Dim, largest
from edgefuse.stages.examples import samples_of, size_of
from edgefuse.stages.running import FAILURES
from edgefuse.stages.silence import users_line
from edgefuse.stages.stage import Feeds, TorchStage

_MOST = 8
"""Sizes to try; the largest and the smallest that a guard excludes tell the most."""

_NEAR = 8
"""Sizes next to the ends of a range, at each of which a guard is evaluated: the rest is halved."""

Opened = tuple[Sequence[Any], Sequence[Dim]]
"""The shape of an input in a traced graph, and what its spec says of it."""


@dataclass(frozen=True)
class Branch:
    """A decision on a size.

    Attributes:
        line: of the user's code that it was made for; empty if there is none.
        steps: sizes that open dimensions may take, at which it falls otherwise than at the largest, in ascending order.
    """

    line: str
    steps: tuple[int, ...]


@contextlib.contextmanager
def guards_by_line() -> Iterator[dict[str, str]]:
    """Collect the user's lines at which torch assumes something of a size, by what it assumes."""
    lines: dict[str, str] = {}
    evaluate = ShapeEnv.evaluate_expr

    def note(self: ShapeEnv, *args: Any, **kwargs: Any) -> Any:
        before = len(self.guards)
        result = evaluate(self, *args, **kwargs)
        for guard in self.guards[before:]:
            lines.setdefault(str(guard.expr), users_line(traceback.extract_stack()))
        return result

    ShapeEnv.evaluate_expr = note  # type: ignore[method-assign]
    try:
        yield lines
    finally:
        ShapeEnv.evaluate_expr = evaluate  # type: ignore[method-assign]


def branches(inputs: Iterable[Opened], lines: Mapping[str, str]) -> tuple[Branch, ...]:
    """Return the decisions of a traced model that fall otherwise at some sizes, in the order in which they were made.

    Args:
        inputs: of the graph.
        lines: what was collected while it was traced.
    """
    pairs = [pair for shape, spec in inputs for pair in zip(shape, spec, strict=True)]
    opened = [(size.node, dim) for size, dim in pairs if isinstance(size, torch.SymInt) and not isinstance(dim, int)]
    if not opened:
        return ()
    environment = opened[0][0].shape_env
    dims = {node.expr: dim for node, dim in opened if node.expr.is_Symbol}
    guards = [guard.expr for guard in environment.guards if guard.expr.free_symbols & dims.keys()]
    hints = dict(environment.backed_var_to_val)
    found = [Branch(lines.get(str(guard), ""), _excluded(guard, dims, hints)) for guard in guards]
    return tuple(branch for branch in found if branch.steps)


def feeds_at_branches(stage: TorchStage, found: Iterable[Branch]) -> Iterator[tuple[str, Feeds]]:
    """Generate feeds of a stage at sizes where decisions fall otherwise, if it takes them, each behind the user's line.

    Where it is known how short inputs are, none is shorter.

    Args:
        stage: to feed.
        found: its decisions.
    """
    fewest = min((values.steps[0] for values in stage.values), default=1)
    lines: dict[int, str] = {}
    for branch in sorted(found, key=lambda branch: not branch.line):
        allowed = [steps for steps in branch.steps if steps >= fewest]
        for steps in (allowed[-1], allowed[0]) if allowed else ():
            lines.setdefault(steps, branch.line)
    for steps, line in list(lines.items())[:_MOST]:
        feeds = next(samples_of(stage, count=1, variant=-steps))
        if _takes(stage, feeds):
            yield line, feeds


def _takes(stage: TorchStage, feeds: Feeds) -> bool:
    """Tell whether the model itself runs at such sizes: fewer steps than a kernel has are none that it takes."""
    try:
        with torch.inference_mode():
            stage.module(*(torch.from_numpy(feeds[port.tensor.name].copy()) for port in stage.spec.inputs))
    except FAILURES:
        return False
    return True


def _excluded(guard: Any, dims: Mapping[Any, Dim], hints: Mapping[Any, int]) -> tuple[int, ...]:
    """Return sizes at which a guard does not hold: the smallest and the largest among them, others found by halves."""
    known: dict[int, bool] = {}

    def holds(steps: int) -> bool:
        if steps not in known:
            known[steps] = _holds(guard, {**hints, **{symbol: size_of(dim, -steps) for symbol, dim in dims.items()}})
        return known[steps]

    most = max(largest(dim) for dim in dims.values())
    tried = sorted({*range(1, _NEAR), *(most >> by for by in range(most.bit_length())), *range(most - _NEAR, most + 1)})
    tried = [steps for steps in tried if 1 <= steps <= most]
    for low, high in itertools.pairwise(tried):
        while high - low > 1 and holds(low) != holds(high):
            middle = (low + high) // 2
            low, high = (middle, high) if holds(middle) == holds(low) else (low, middle)
    return tuple(sorted(steps for steps in {*tried, *known} if not holds(steps)))


def _holds(guard: Any, sizes: Mapping[Any, int]) -> bool:
    """Tell whether a guard holds; where it divides by a size that is 0, it does not."""
    try:
        value = guard.subs(sizes)
    except (ArithmeticError, AssertionError, ValueError):
        return False
    return bool(value.is_Boolean and not value.free_symbols and value)
