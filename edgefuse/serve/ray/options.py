"""How a bundle is replicated."""

from __future__ import annotations

from dataclasses import dataclass

from edgefuse.errors import InputError


@dataclass(frozen=True)
class Options:
    """How many replicas there are, what each takes, and what waits in front of them.

    Attributes:
        replicas: processes with the bundle.
        threads: of a replica, for inference.
        cpus: of the cluster's, that Ray sets aside for a replica; it starts no more replicas than fit. None: `threads`.
        batch: requests that are handed over to a replica together, at most. It answers them one after the other.
        wait_ms: that a request waits for others to be handed over with it. 0: for none, so that batches form only while
            every replica has something to do.
        depth: requests that may wait or run at a time, of all replicas together; one more gets 429.
        body_bytes: of one request.
        answer_s: that a request may take.
        rung: the operating point; None: the bundle's.
        backend: another one than the bundle names.
        digest: that the bundle must have; None: that of the bundle that is there when it is deployed.

    Raises:
        InputError: a number is too small.
    """

    replicas: int = 1
    threads: int = 1
    cpus: float | None = None
    batch: int = 8
    wait_ms: float = 0.0
    depth: int = 64
    body_bytes: int = 16 << 20
    answer_s: float = 30.0
    rung: str | None = None
    backend: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        for name in ("replicas", "threads", "batch", "depth", "body_bytes"):
            if getattr(self, name) < 1:
                raise InputError(f"the option '{name}' is too small", got=getattr(self, name), expected="1 or more")
        for name in ("cpus", "wait_ms"):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f"the option '{name}' is too small", got=getattr(self, name), expected="0 or more")
        if not self.answer_s > 0:
            raise InputError("the option 'answer_s' is too small", got=self.answer_s, expected="more than 0")
