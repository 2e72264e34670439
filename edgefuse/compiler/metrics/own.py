"""The user's own metric: `module:callable`, called with outputs and targets, both arrays with the items first.

It returns a score per item, [n], or one figure of all items; the first call shows which. Greater is better, unless the
callable has an attribute `higher_is_better` that is false, as the metrics of torchmetrics have; one of those may be
named, too, and gets tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.compiler.metrics.metric import Array, Asked, Metric, Rows
from edgefuse.compiler.recipe.factory import imported, staying_here, users_code
from edgefuse.errors import MeasureError, ModelError

_FIX = "return an array with a finite score for each item, or one finite number for all of them"


def own(reference: str, folder: Path) -> Metric:
    """Return the metric that a spec names as `module:callable`.

    Args:
        reference: module and name.
        folder: that is searched first.

    Raises:
        ModelError: if it cannot be imported or called.
    """
    function = imported(reference, folder, kind=ModelError)
    if not callable(function):
        raise ModelError(
            f"the metric '{reference}' cannot be called", got=type(function).__name__, expected="a callable"
        )
    call = _Call(reference, str(folder))
    lower = getattr(function, "higher_is_better", True) is False
    return Metric(call.rows, call.figure, lower_is_better=lower)


@dataclass(frozen=True)
class _Call:
    """A call of the user's function, which travels to workers by its name."""

    reference: str
    folder: str

    def rows(self, outputs: Array, targets: Array, asked: Asked) -> Rows:
        """Return the scores of all items, or else the outputs and targets, of which there is one figure."""
        found = self._called(outputs, targets)
        if found.ndim == 0:
            return outputs, targets
        if found.shape != (len(outputs),):
            raise MeasureError(
                f"the metric '{self.reference}' returns another number of scores than there are items",
                got=f"the shape {list(found.shape)}",
                expected=f"[{len(outputs)}], or one number",
                fix=_FIX,
            )
        return (found,)

    def figure(self, *rows: Array) -> float:
        """Return the mean of scores, or the figure of outputs and targets."""
        return float(rows[0].mean()) if len(rows) == 1 else float(self._called(*rows))

    def _called(self, outputs: Array, targets: Array) -> Array:
        with staying_here(), users_code(f"the metric '{self.reference}' failed", MeasureError):
            function = imported(self.reference, Path(self.folder), kind=ModelError)
            found: Any = _torchmetric(function)(outputs, targets)
        try:
            scores = np.asarray(found, np.float64)
        except Exception as error:
            got = type(found).__name__
            raise MeasureError(f"the metric '{self.reference}' returns no numbers", got=got, fix=_FIX) from error
        if not np.isfinite(scores).all():
            raise MeasureError(
                f"the metric '{self.reference}' is not finite",
                got=f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} numbers NaN or infinite",
                fix=_FIX,
            )
        return scores


def _torchmetric(function: Any) -> Callable[[Array, Array], Any]:
    """Let a metric of torchmetrics take arrays; it keeps nothing from one call to the next."""
    import torch

    def called(outputs: Array, targets: Array) -> Any:
        if not isinstance(function, torch.nn.Module):
            return function(outputs, targets)
        with torch.no_grad():
            found = torch.nn.Module.__call__(function, *(torch.from_numpy(np.array(one)) for one in (outputs, targets)))
        if callable(reset := getattr(function, "reset", None)):
            reset()
        return found.numpy()

    return called
