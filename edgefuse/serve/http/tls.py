"""TLS: a certificate and its key, and a handshake that no thread waits for."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from cheroot.errors import FatalSSLAlert
from cheroot.makefile import MakeFile
from cheroot.ssl import Adapter

from edgefuse.errors import InputError, cited


class Tls(Adapter):
    """Wraps sockets; the handshake is made as the first bytes are read.

    Args:
        certificate: the path of a PEM file with the certificate and the chain that leads to it.
        key: the path of a PEM file with its private key, without a password.

    Raises:
        InputError: they cannot be read, or do not belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self.context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise InputError(
                f"the certificate '{certificate}' and the key '{key}' cannot be used",
                got=cited(error),
                expected="two PEM files that belong together, the key without a password",
            ) from error

    def bind(self, sock: Any) -> Any:
        """Return the listening socket as it is."""
        return sock

    def wrap(self, sock: Any) -> tuple[ssl.SSLSocket, dict[str, str]]:
        """Return a socket over a connection's, and nothing for the application."""
        try:
            return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), {}
        except OSError as error:  # the peer is gone
            raise FatalSSLAlert(*error.args) from error

    def get_environ(self) -> dict[str, str]:
        """Return nothing: the application needs to know nothing of it."""
        return {}

    def makefile(self, sock: Any, mode: str = "r", bufsize: int = -1) -> Any:
        """Return a file over a socket.

        Args:
            sock: of a connection.
            mode: `rb` or `wb`.
            bufsize: in bytes.
        """
        return MakeFile(sock, mode, bufsize)
