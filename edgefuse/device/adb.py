"""Devices behind `adb://serial`, or `adb:` for the only one, through the Android Debug Bridge."""

from __future__ import annotations

import re
import shutil

from edgefuse.device.device import TIMEOUT_SECONDS
from edgefuse.errors import DeviceError

_URI = re.compile(r"adb:(?://)?(?P<serial>[A-Za-z0-9_][A-Za-z0-9_.:-]*)?/?")
# What adb says, what is wrong, and what to do. The first match counts.
_REASONS = (
    (r"no devices/emulators found|device '.*' not found", "there is no such device", "see 'adb devices'"),
    (r"more than one device", "there are several devices", "name one of 'adb devices': adb://SERIAL"),
    (r"unauthorized", "the device did not let us in", "unlock it and allow debugging from this computer"),
    (r"device offline|device still", "the device is not ready", "plug it in again, then see 'adb devices'"),
    (r"supports? allocating a pty|PTY args", "the device's adb is too old", "use a device with Android 7 or newer"),
    (r"cannot connect to daemon|failed to start daemon", "adb's server does not run", "see 'adb start-server'"),
    (r"closed|protocol fault|device .*disconnected", "the connection was lost", "check the device, then try again"),
)


class AdbDevice:
    """A phone or board that lets adb run commands, with a Python that its shell may start.

    Raises:
        DeviceError: if the URI is not one of adb.
    """

    folder = "${TMPDIR:-/data/local/tmp}"

    def __init__(self, uri: str) -> None:
        found = _URI.fullmatch(uri)
        if found is None:
            raise DeviceError("this is no device behind adb", got=repr(uri), expected="adb://SERIAL, or adb: for one")
        self._serial = ["-s", serial] if (serial := found["serial"]) else []

    def command(self, script: str, timeout_seconds: float = TIMEOUT_SECONDS) -> list[str]:
        """Return adb's command line: a shell without a terminal, whose streams are passed on as they are."""
        if shutil.which("adb") is None:
            raise DeviceError("there is no program 'adb'", fix="install Android's platform tools")
        return ["adb", *self._serial, "shell", "-T", script]

    def lost(self, code: int, complaint: str) -> DeviceError | None:
        """Read adb's stderr: its exit code is that of the script wherever there was one."""
        name = self._serial[-1] if self._serial else "the device"
        for pattern, what, fix in _REASONS:
            if found := re.search(f"^(?:adb|error): .*(?:{pattern}).*", complaint, re.MULTILINE):
                return DeviceError(f"{what} ({name})", got=repr(found[0].strip()), fix=fix)
        return None
