"""How good and how fast the desk's answers are, through Ray Serve and HTTP, with all three modalities.

    python -m examples.customer_service.quality INTENT DIALOGUE --out answers.json

It keeps what `composition.json` promises `make systems`: the models' bundles in the order of that file, and then
`--out`, a file that says of every item, and of every part of its answer, whether it was right.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.service import running
from examples.customer_service.clients import Asked, arguments_of, ask_all, of_desk, outcome
from examples.customer_service.desk import desk
from examples.customer_service.items import Item, items


def main() -> int:
    """Judge a desk of two bundles."""
    parser = arguments_of(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the file that is written")
    parser.add_argument("--items", type=int, default=800, help="of the test split (default: all 800)")
    return outcome(quality, parser.parse_args())


def quality(arguments: argparse.Namespace) -> None:
    """Ask all items, and write what came of them.

    Raises:
        EdgefuseError: the items cannot be made, or the desk does not start.
    """
    judged = items(arguments.items)
    options = Options(replicas=arguments.replicas, cpus=0.5, depth=4 * arguments.clients)
    app = desk(arguments.intent.resolve(), arguments.dialogue.resolve(), options)
    with running(app, "127.0.0.1:0", arguments.replicas) as url:
        asked = ask_all(of_desk(url), [one.inputs for one in judged], arguments.clients)
    said = told(judged, asked) | {"clients": arguments.clients, "replicas": arguments.replicas}
    arguments.out.write_bytes(msgspec.json.encode(said))


def told(judged: list[Item], asked: Asked) -> dict[str, object]:
    """Return what is told of answers: which were right, which were lost, and how long they took.

    Args:
        judged: the items.
        asked: what came of them, in the same order.
    """
    pairs = [(answer or {}, item) for answer, item in zip(asked.answers, judged, strict=True)]
    right = {
        "class": [answer.get("class") == item.intent for answer, item in pairs],
        "reply": [answer.get("reply") == item.reply for answer, item in pairs],
    }
    times_ms = [1e3 * one for one in asked.times_s]
    return {"right": right, "lost": asked.answers.count(None), "times_ms": times_ms, "seconds": asked.took_s}


if __name__ == "__main__":
    sys.exit(main())
