"""What one step of a decoder takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from edgefuse.errors import InputError

Logits: TypeAlias = "npt.NDArray[np.float32]"
State = TypeVar("State")
Step: TypeAlias = Callable[[int, int, State], "tuple[Logits, State]"]
"""(the token before, the position from 0, the state) -> (logits, float32 [vocabulary], the next state).

A state is not changed by a step: hypotheses that branch go on from the same one.
"""


class Token(NamedTuple):
    """A token that was generated.

    Attributes:
        id: its index in the vocabulary.
        logprob: the logarithm of its probability by the model, whatever draws or beams made of that.
    """

    id: int
    logprob: float


def log_probabilities(logits: Logits, of: str) -> npt.NDArray[np.float64]:
    """Return the logarithms of the probabilities (softmax) of tokens, float64 [..., vocabulary].

    Args:
        logits: float32 [..., vocabulary]; minus infinity rules a token out.
        of: whom, for the error.

    Raises:
        InputError: if a logit is NaN or infinity, or all of a row are ruled out.
    """
    shifted = logits.astype(np.float64) - highest(logits, of)[..., None]
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def highest(logits: Logits, of: str) -> Logits:
    """Return the highest logit of each row, float32 [...]; the rest is as of `log_probabilities`."""
    found: Logits = np.asarray(logits.max(axis=-1))
    if not np.isfinite(found).all():
        raise InputError(
            f"the logits of {of} are not finite",
            got=f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size} numbers NaN or infinite",
            expected="numbers",
            fix="scale the inputs as in training: what is too large overflows inside the model",
        )
    return found


def greatest(values: npt.NDArray[np.float64], most: int) -> list[int]:
    """Return the indices of the greatest of some values, in falling order; of equals, the first ones."""
    if most < len(values):  # to sort all takes ten times as long where a vocabulary is large
        near = np.flatnonzero(values >= np.partition(values, -most)[-most])
    else:
        near = np.arange(len(values))
    chosen: list[int] = near[np.argsort(-values[near], kind="stable")][:most].tolist()
    return chosen
