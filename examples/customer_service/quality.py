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

from edgefuse.errors import EdgefuseError
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.service import running
from examples.customer_service.clients import Asked, ask_all, of_desk
from examples.customer_service.desk import desk
from examples.customer_service.items import Item, items


def main() -> int:
    """Judge a desk of two bundles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("intent", type=Path, metavar="INTENT", help="the bundle that names the class")
    parser.add_argument("dialogue", type=Path, metavar="DIALOGUE", help="the bundle that makes the reply")
    parser.add_argument("--out", type=Path, required=True, help="the file that is written")
    parser.add_argument("--replicas", type=int, default=2, help="of each bundle (default: 2)")
    parser.add_argument("--clients", type=int, default=8, help="that ask at a time (default: 8)")
    parser.add_argument("--items", type=int, default=800, help="of the test split (default: all 800)")
    arguments = parser.parse_args()
    try:
        judge(arguments)
    except EdgefuseError as error:
        print(f"quality: error: {error}", file=sys.stderr)
        return 2
    return 0


def judge(arguments: argparse.Namespace) -> None:
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
