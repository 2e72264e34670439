"""The protocol of a device: how this machine runs a command over there, and how it explains a failure."""

from __future__ import annotations

import math
from typing import Protocol

from edgefuse import registry
from edgefuse.errors import DeviceError

TIMEOUT_SECONDS = 60.0
"""How long a device may be silent, unless the user says otherwise."""
_MAX_TIMEOUT_SECONDS = 86_400.0
_MAX_URI = 1_000


class Device(Protocol):
    """A way to reach one machine, made from its URI; registered under the scheme of that URI.

    `folder` is where the device has room for what it is sent, as a word of its shell.
    """

    folder: str

    def command(self, script: str, timeout_seconds: float = TIMEOUT_SECONDS) -> list[str]:
        """Return what to run here so that the device's shell runs a script, its stdin and stdout being ours.

        Args:
            script: one line without `!`.
            timeout_seconds: after which the session gives up: what the program itself can limit should be less.

        Raises:
            DeviceError: if the program for it is not installed.
        """

    def lost(self, code: int, complaint: str) -> DeviceError | None:
        """Tell why the connection failed; None if it did not, and what ended is the script.

        Args:
            code: the exit code of the command.
            complaint: what it wrote to stderr.
        """


def device_of(uri: str) -> Device:
    """Return the device that a URI such as `ssh://user@host` or `adb://serial` names.

    Raises:
        DeviceError: if the URI is none, or cannot be used safely.
    """
    scheme, colon, _ = uri.partition(":")
    plain = uri.isascii() and uri.isprintable() and " " not in uri and len(uri) <= _MAX_URI
    if not colon or not plain or not scheme.isidentifier():
        raise DeviceError("a device is named by a URI", got=repr(uri), expected="ssh://user@host or adb://serial")
    found: Device = registry.create("devices", scheme, uri)
    return found


def checked_timeout(seconds: float) -> float:
    """Return a time limit for devices.

    Raises:
        DeviceError: if it is no number of seconds, or more than a day.
    """
    if not (math.isfinite(seconds) and 0 < seconds <= _MAX_TIMEOUT_SECONDS):
        raise DeviceError(
            "the time limit of a device is out of range",
            got=f"{seconds:g} seconds",
            expected=f"more than 0 and at most {_MAX_TIMEOUT_SECONDS:.0f} seconds",
        )
    return seconds
