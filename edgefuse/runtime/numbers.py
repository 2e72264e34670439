"""Numbers that settings are given as: Python's own, or numpy's."""

from __future__ import annotations

from numbers import Integral, Real


def number_of(value: object, *, whole: bool = False) -> float | None:
    """Return a setting as a number of Python's own: numpy's 32-bit ones would round all that is computed with them.

    Args:
        value: any object.
        whole: whether it has to be a whole number.

    Returns:
        The number, an int of what is an integer; None if it is none: a truth value is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        return None
    return int(value) if isinstance(value, Integral) else float(value)
