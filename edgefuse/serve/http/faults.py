"""What kind of thing went wrong, as a status of HTTP."""

from __future__ import annotations

import math

from werkzeug.exceptions import ClientDisconnected, HTTPException, TooManyRequests

from edgefuse.errors import InputError, MissingExtraError
from edgefuse.serve.queue import Draining, Expired, Full


def status(error: Exception) -> tuple[int, dict[str, str]]:
    """Return the status that says what kind of thing went wrong, and the fields that belong to it."""
    if isinstance(error, ClientDisconnected):
        return (408 if isinstance(error.__context__, TimeoutError) else 400), {"Connection": "close"}
    if isinstance(error, Full | TooManyRequests):
        return 429, {"Retry-After": str(max(1, math.ceil(getattr(error, "retry_after_s", 1))))}
    if isinstance(error, Draining | Expired):
        return 503, {"Retry-After": "1"}
    if isinstance(error, HTTPException):
        return error.code or 500, {}
    if isinstance(error, MissingExtraError):
        return 415, {}
    return (400, {}) if isinstance(error, InputError) else (500, {})
