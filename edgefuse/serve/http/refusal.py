"""What a request is refused with: a status, and a sentence as JSON."""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec

from edgefuse.errors import BackendError, EdgefuseError, InputError, MissingExtraError
from edgefuse.serve.queue import Draining, Expired, Full

JSON = "application/json"


class Refusal(EdgefuseError):  # noqa: N818 - what is refused, not what failed
    """A request is not answered.

    Args:
        status: of HTTP.
        what: is wrong.
        got: what was found.
        expected: what was expected instead.
        fix: what the client can do.
    """

    def __init__(
        self, status: int, what: str, *, got: object = None, expected: object = None, fix: str | None = None
    ) -> None:
        super().__init__(what, got=got, expected=expected, fix=fix)
        self.status = HTTPStatus(status)


class ErrorDetail(msgspec.Struct, frozen=True):
    """What is wrong.

    Attributes:
        code: the status' name in small letters: `bad_request`, `too_many_requests`.
        message: a sentence that says what is wrong, what was found, what was expected and what to do.
    """

    code: str
    message: str


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer that is no success."""

    error: ErrorDetail


def body(status: int, sentence: str) -> bytes:
    """Return the JSON that tells of an error."""
    return msgspec.json.encode(ErrorAnswer(ErrorDetail(HTTPStatus(status).name.lower(), sentence)))


def status_of(error: EdgefuseError) -> int:
    """Return the status that fits an error."""
    if isinstance(error, Refusal):
        return error.status
    for kind, status in _STATUSES.items():
        if isinstance(error, kind):
            return status
    return 500


def retry_after_s(error: EdgefuseError) -> int | None:
    """Return in how many whole seconds it is worth asking again, or None if it never is."""
    if isinstance(error, Full):
        return max(1, math.ceil(error.retry_after_s))
    return 1 if status_of(error) in (429, 503) else None


_STATUSES: dict[type[EdgefuseError], int] = {
    Full: 429,
    Expired: 503,
    Draining: 503,
    InputError: 400,
    MissingExtraError: 501,
    BackendError: 500,
}
"""By kind of error, the more particular first."""
