"""What handing requests over together brings: one bundle behind Ray Serve, with batches of one and of several.

    python -m benchmarks.batching BUNDLE [--seconds 6] [--rounds 3] [--clients 16] [--replicas 1]

Clients ask again as soon as they are answered. The graph has a batch of one in either case (docs/serve.md).
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import statistics
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

import edgefuse
from edgefuse.bundle.spec import ModelSpec, TextPreprocess
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.service import serving

BATCHES = (1, 4, 16)


def main() -> None:
    """Print the throughput for each size of a batch, in rounds, so that what else a machine does meets all sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--replicas", type=int, default=1)
    arguments = parser.parse_args()
    with edgefuse.load(arguments.bundle) as pipeline:
        body = words(pipeline.manifest.model)
    found: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _, batch in itertools.product(range(arguments.rounds), BATCHES):
        options = Options(replicas=arguments.replicas, batch=batch, depth=2 * arguments.clients)
        with serving(arguments.bundle, options, "127.0.0.1:0") as url:
            ask(url, body, 2.0, arguments.clients)  # until all is warm
            found[batch].append(len(ask(url, body, arguments.seconds, arguments.clients)) / arguments.seconds)
    for batch, rates in found.items():
        each = ", ".join(f"{rate:.1f}" for rate in rates)
        print(f"batches of up to {batch:2}: {statistics.median(rates):6.1f} answers per second ({each})")


def words(model: ModelSpec) -> bytes:
    """Return a request with text alone."""
    (name, *_) = (each.name for each in model.modalities if isinstance(each.preprocess, TextPreprocess))
    return msgspec.json.encode({"inputs": {name: "turn on the lights in the kitchen"}})


def ask(url: str, body: bytes, seconds: float, clients: int) -> list[float]:
    """Return the seconds that each answer took.

    Args:
        url: of the service.
        body: of every request.
        seconds: for which is asked.
        clients: that ask at a time.
    """
    ends = time.monotonic() + seconds
    found: list[float] = []

    def client() -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        while time.monotonic() < ends:
            began = time.perf_counter()
            connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            found.append(time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


if __name__ == "__main__":
    main()
