"""What kind of thing went wrong, as a status of HTTP, and as a log may say it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from werkzeug.exceptions import ClientDisconnected, HTTPException, TooManyRequests, Unauthorized

from edgefuse.errors import EdgefuseError, InputError, MissingExtraError
from edgefuse.serve.http.access import is_authorised
from edgefuse.serve.queue import Draining, Expired, Full

UNEXPECTED = "An error of this service; its log says which."


def check_token(token: str, header: str | None) -> None:
    """Refuse who has not the token in the field `Authorization`.

    Raises:
        Unauthorized: it is missing, or another one.
    """
    if not is_authorised(token, header):
        raise Unauthorized("The token is missing or wrong: send Authorization: Bearer TOKEN.")


class PanicError(Exception):
    """A runtime panicked: its cause is no `Exception`, and would end a connection without an answer."""


@contextmanager
def panics_caught() -> Iterator[None]:
    """Within the block, turn what a runtime in Rust raises where it panics into an error that is answered.

    Raises:
        PanicError: it did. What tells a thread or the process to end is raised as it is.
    """
    try:
        yield
    except (Exception, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise PanicError from error


def status(error: Exception) -> tuple[int, dict[str, str]]:
    """Return the status that says what kind of thing went wrong, and the fields that belong to it."""
    if isinstance(error, ClientDisconnected):
        return (408 if isinstance(error.__context__, TimeoutError) else 400), {"Connection": "close"}
    if isinstance(error, Full | TooManyRequests):
        return 429, {"Retry-After": str(max(1, math.ceil(getattr(error, "retry_after_s", 1))))}
    if isinstance(error, Draining | Expired):
        return 503, {"Retry-After": "1"}
    if isinstance(error, Unauthorized):
        return 401, {"WWW-Authenticate": "Bearer"}
    if isinstance(error, HTTPException):
        return error.code or 500, {}
    if isinstance(error, MissingExtraError):
        return 415, {}
    return (400, {}) if isinstance(error, InputError) else (500, {})


def where(error: BaseException) -> str:
    """Return what kind of error it is and where it was raised: its words may hold what a client sent."""
    if isinstance(error, PanicError) and error.__cause__ is not None:
        error = error.__cause__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""
    own = f": {error}" if isinstance(error, EdgefuseError) else ""
    return f"{type(error).__name__}{place}{own}"
