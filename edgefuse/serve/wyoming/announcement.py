"""Multicast DNS: tells the local network of the service, so that Home Assistant offers it by itself."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from edgefuse.errors import InputError, cited, needing
from edgefuse.serve.wyoming.address import Address

SERVICE = "_wyoming._tcp.local."
_MULTICAST = ("224.0.0.251", 5353)


@asynccontextmanager
async def announced(address: Address, name: str) -> AsyncIterator[None]:
    """Tell of the service while the block runs, and take it back at its end.

    Args:
        address: where it listens, which others must be able to reach.
        name: of the service in the network.

    Raises:
        InputError: nobody else can reach it, the network has its name already, or there is none.
        MissingExtraError: the library zeroconf is not installed.
    """
    if address.local:
        raise InputError(
            "a service that only this machine can reach is not announced",
            got=address,
            fix="listen on an exposed address",
        )
    with needing("telling the network of a service", extra="zeroconf"):
        import zeroconf
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
    async with AsyncExitStack() as stack:
        try:
            told = [ipaddress.ip_address(_reachable(address.host)).packed]
            info = AsyncServiceInfo(SERVICE, f"{name}.{SERVICE}", addresses=told, port=address.port)
            telling = AsyncZeroconf()
            stack.push_async_callback(telling.async_close)
            stack.push_async_callback(telling.async_unregister_all_services)
            await telling.async_register_service(info)
        except (OSError, zeroconf.Error) as error:
            raise InputError(
                "the network cannot be told of the service",
                got=f"{name} at {address} ({cited(error)})",
                expected="a network, and a name that nobody else has there",
            ) from error
        yield


def _reachable(host: str) -> str:
    """Return the number at which others reach a host; for one that means all of them, that of the way to multicast."""
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            return host
    except ValueError:
        return socket.gethostbyname(host)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_MULTICAST)  # sends nothing
        return str(probe.getsockname()[0])
