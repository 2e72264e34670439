"""The protocol of a device: how this machine runs a command over there, and what it means when that fails."""

from __future__ import annotations

from typing import Protocol

from edgefuse import registry
from edgefuse.errors import DeviceError


class Device(Protocol):
    """A way to reach one machine, made from its URI; registered under the scheme of that URI.

    `folder` is where the device has room for what it is sent, as a word of its shell.
    """

    folder: str

    def command(self, script: str) -> list[str]:
        """Return what to run here so that the device's shell runs a script, its stdin and stdout being ours.

        Args:
            script: one line without `!`.

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
    if not colon or not scheme.isidentifier():
        raise DeviceError("a device is named by a URI", got=repr(uri), expected="ssh://user@host or adb://serial")
    found: Device = registry.create("devices", scheme, uri)
    return found
