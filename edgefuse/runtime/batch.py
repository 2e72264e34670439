"""Several items, one after the other, with errors that say which of them they are of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from edgefuse.errors import EdgefuseError, InputError

A = TypeVar("A")
B = TypeVar("B")


def each(items: Iterable[A], run: Callable[[A], B]) -> list[B]:
    """Return what a function makes of each item; the item's number, from 0, is put at the head of its errors.

    Raises:
        InputError: these are no items, or what the function raises.
    """
    if not isinstance(items, Iterable):
        raise InputError("a batch is no list of items", got=type(items).__name__, expected="one mapping for each item")
    done: list[B] = []
    for number, item in enumerate(items):
        try:
            done.append(run(item))
        except EdgefuseError as error:
            error.args = (f"item {number}: {error}",)
            raise
    return done


def keywords(item: object) -> Mapping[str, object]:
    """Return an item that is a mapping from modalities to inputs.

    Raises:
        InputError: it is none.
    """
    if isinstance(item, Mapping) and all(isinstance(name, str) for name in item):
        return item
    raise InputError(
        "an item of a batch is no mapping from modalities to inputs",
        got=type(item).__name__,
        expected="one mapping for each item",
        fix="pipeline.batch([{'image': …}, {'image': …}])",
    )
