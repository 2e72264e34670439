"""What Ray's proxy hears of a client: what the ingress passes on, and no more.

Ray takes orders from fields that any client may send (`x-request-timeout-seconds`, `x-request-disconnect-disabled`, one
for the replica), logs its `x-request-id`, fails where one of these is not UTF-8, and hands WebSockets to what
answers HTTP. On a cluster that edgefuse starts, its proxy hears none of it; on others, where they have the variable.
"""

from __future__ import annotations

from types import MappingProxyType

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

PASSED_ON = ("Host", "Authorization", "Content-Type")
"""Fields that replicas are given."""
VARIABLES = MappingProxyType({"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "edgefuse.serve.ray.proxy.doors"})
"""Of the environment of Ray's proxy; from there it takes what stands in front of it."""
_HEARD = {name.lower().encode() for name in (*PASSED_ON, "Content-Length")}


class Door:
    """Stands in front of an application of ASGI.

    Args:
        app: that it lets requests through to.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through with the fields that matter, and refuse a WebSocket."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # which is 403, as it was not accepted
            return
        fields = [(name, value) for name, value in scope.get("headers", ()) if name in _HEARD]
        await self._app(dict(scope) | {"headers": fields}, receive, send)


def doors() -> list[Middleware]:
    """Return what stands in front of Ray's proxy."""
    return [Middleware(Door)]
