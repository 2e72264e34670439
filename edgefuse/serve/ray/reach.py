"""Who can reach a process of Ray Serve.

Every replica of Ray Serve listens for others on all networks of its machine (Ray 2.60, `ray.serve._private.replica`),
and unpickles what comes from whoever has the cluster's token. Nobody needs it elsewhere than at the node's own address,
which is where the others ask, and which is 127.0.0.1 on a cluster that edgefuse starts.
"""

from __future__ import annotations

from typing import Any

from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica
from ray.util import get_node_ip_address


def keep_to_node() -> None:
    """Listen at the node's address alone; to be called by what Ray makes in a replica, before that listens."""
    replica.add_port_to_grpc_server = _listen  # type: ignore[attr-defined] # it is imported there, and not meant for us


def _listen(server: Any, address: str) -> int:
    node: str = get_node_ip_address()  # type: ignore[no-untyped-call]
    host = f"[{node}]" if ":" in node else node
    port: int = add_port_to_grpc_server(server, f"{host}:{address.rpartition(':')[2]}")  # type: ignore[no-untyped-call]
    return port
