"""TLS around connections, whose handshake is a part of what they receive: nobody waits for it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from cheroot.ssl import Adapter

from edgefuse.errors import InputError, cited


class Tls(Adapter):
    """Wraps connections; the handshake is done when they are read.

    Args:
        certificate: a PEM file with the certificate, and those that lead to it.
        key: a PEM file with its key.

    Raises:
        InputError: they cannot be read, or do not belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(str(certificate), str(key))
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            self.context.load_cert_chain(certificate, key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise InputError(
                f"the certificate '{certificate}' and the key '{key}' cannot be used",
                got=cited(error),
                expected="two PEM files that belong together, the key without a password",
            ) from error

    def bind(self, sock: Any) -> Any:
        """Return the listening socket as it is."""
        return sock

    def wrap(self, sock: Any) -> tuple[Any, dict[str, str]]:
        """Return an accepted socket with TLS around it, and what WSGI is to know of it."""
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return wrapped, self.get_environ(wrapped)

    def get_environ(self, sock: Any = None) -> dict[str, str]:
        """Return what WSGI is to know of a connection."""
        return {"wsgi.url_scheme": "https", "HTTPS": "on"}

    def makefile(self, *_: Any) -> Any:
        """Is not called: a connection makes its files itself."""
        raise NotImplementedError
