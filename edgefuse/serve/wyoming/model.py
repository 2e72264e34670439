"""What answers, as the service sees it: a pipeline, and a queue in front of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from edgefuse.errors import EdgefuseError
from edgefuse.runtime.pipeline import Pipeline

T = TypeVar("T")


class Source(Protocol):
    """What has the pipeline that answers now, such as `edgefuse.Live`."""

    @property
    def pipeline(self) -> Pipeline:
        """To be called, and read for its manifest."""


class Queue(Protocol):
    """Calls the pipeline in threads of its own, a bounded number of calls waiting."""

    def submit(self, call: Callable[[Pipeline], T]) -> Future[T]:
        """Return what a call will give, at once.

        Raises:
            EdgefuseError: with `retry_after_s`, as `FullError` has it, if too many wait.
        """


class FullError(EdgefuseError):
    """There is no room for one more.

    Args:
        what: there is too much of.
        retry_after_s: when it is worth asking again.
    """

    def __init__(self, what: str, *, retry_after_s: float) -> None:
        super().__init__(what, fix=f"ask again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s
