"""Devices behind `ssh://user@host[:port]`, through the OpenSSH client and its configuration."""

from __future__ import annotations

import re
import shutil
from urllib.parse import urlsplit

from edgefuse.device.device import TIMEOUT_SECONDS
from edgefuse.errors import DeviceError

# Nothing may ask for anything: a host whose key is unknown is refused, and so is who needs a password. Nothing of this
# machine is offered to the device, and no connection of ours stays open for others.
_OPTIONS = (
    *("BatchMode=yes", "StrictHostKeyChecking=yes", "ServerAliveCountMax=3", "ClearAllForwardings=yes"),
    *("ForwardAgent=no", "ForwardX11=no", "EscapeChar=none", "ControlMaster=no"),
)
# Of the session's patience: so that the client, which knows more, is the one to say that a host does not answer.
_TO_CONNECT, _TO_ANSWER = 1 / 3, 1 / 12
_CONNECTION_FAILED = 255
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+\\-]*")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")
# What the client says (its messages are English everywhere), what is wrong, and what to do. The first match counts.
_REASONS = (
    (
        r"HOST IDENTIFICATION HAS CHANGED",
        "the host key of {host} is not the one that is known: this may be another machine",
        "find out why it changed, then remove the old key with 'ssh-keygen -R' and connect with ssh once",
    ),
    (
        r"Host key verification failed|No .* host key is known",
        "the host key of {host} is not known",
        "connect with ssh once and compare its fingerprint",
    ),
    (
        r"Permission denied",
        "{host} did not let us in",
        "set up a key that needs no password (ssh-copy-id; ssh-agent for one with a passphrase)",
    ),
    (r"Could not resolve hostname", "there is no host {host}", "correct the URI, or name the host in the ssh config"),
    (r"Connection refused", "nobody listens at {host}", "start its ssh server, or correct the port"),
    (
        r"timed out|No route to host|is unreachable|Network is down",
        "{host} does not answer",
        "check that it is switched on and in this network",
    ),
)


class SshDevice:
    """A machine with an ssh server and a POSIX shell.

    Raises:
        DeviceError: if the URI is not one of ssh, or holds what the client could take for an option.
    """

    folder = "${TMPDIR:-/tmp}"

    def __init__(self, uri: str) -> None:
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port, parts = "", None, urlsplit("ssh:")
        user = parts.username
        fits = _HOST.fullmatch(host) and (user is None or _USER.fullmatch(user)) and port != 0
        if not fits or parts.password is not None or parts.path.strip("/") or parts.query or parts.fragment:
            raise DeviceError("this is no device behind ssh", got=repr(uri), expected="ssh://user@host[:port]")
        self._host = f"{user}@{host}" if user else host
        self._port = ["-p", str(port)] if port else []

    def command(self, script: str, timeout_seconds: float = TIMEOUT_SECONDS) -> list[str]:
        """Return the client's command line."""
        if shutil.which("ssh") is None:
            raise DeviceError("there is no program 'ssh'", fix="install the OpenSSH client")
        connecting, asking = (max(1, round(timeout_seconds * part)) for part in (_TO_CONNECT, _TO_ANSWER))
        limits = (f"ConnectTimeout={connecting}", f"ServerAliveInterval={asking}")
        options = (word for option in (*_OPTIONS, *limits) for word in ("-o", option))
        return ["ssh", "-T", "-x", *options, *self._port, "--", self._host, script]

    def lost(self, code: int, complaint: str) -> DeviceError | None:
        """Read the client's stderr."""
        if code != _CONNECTION_FAILED:
            return None
        for pattern, what, fix in _REASONS:
            if found := re.search(f".*(?:{pattern}).*", complaint):
                return DeviceError(what.format(host=self._host), got=repr(found[0].strip()), fix=fix)
        last = (complaint.strip().splitlines() or ["no message"])[-1].strip()
        return DeviceError(
            f"the connection to {self._host} was lost", got=repr(last), fix="check the device, then try again"
        )
