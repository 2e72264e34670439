"""The desk behind Ray Serve and, for comparison, two services of one process each, asked by the same clients.

    python -m examples.customer_service.compare INTENT DIALOGUE [--replicas 2] [--clients 8] [--requests 400]

Each client asks for a class and a reply, waits for both, and asks again.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from edgefuse.errors import InputError
from edgefuse.files import reason
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.service import running
from examples.customer_service.clients import Ask, arguments_of, ask_all, of_desk, outcome
from examples.customer_service.desk import desk, reply

REQUESTS = (
    *("turn on the lights in the kitchen", "set the temperature to 21 degrees", "Schalte das Licht aus"),
    *("Mach den Ventilator im Schlafzimmer an", "allume la lumière", "éteins le ventilateur dans le salon"),
)


def main() -> int:
    """Print an answer, and throughput and times of both ways."""
    parser = arguments_of(__doc__)
    parser.add_argument("--image", type=Path, help="a picture that goes with every request")
    parser.add_argument("--audio", type=Path, help="a sound that goes with every request")
    parser.add_argument("--requests", type=int, default=400, help="in all (default: 400)")
    arguments = parser.parse_args()
    if min(arguments.replicas, arguments.clients, arguments.requests - 1) < 1:
        parser.error("--replicas and --clients are 1 or more, --requests 2 or more")
    return outcome(compare, arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Ask both ways the same.

    Raises:
        EdgefuseError: a file cannot be read, or what is to answer does not start.
    """
    files = {name: getattr(arguments, name) for name in ("image", "audio") if getattr(arguments, name)}
    shown = {name: encoded(path) for name, path in files.items()}
    asked = [shown | {"text": REQUESTS[number % len(REQUESTS)]} for number in range(arguments.requests)]
    options = Options(replicas=arguments.replicas, cpus=0.5, depth=4 * arguments.clients)
    app = desk(arguments.intent.resolve(), arguments.dialogue.resolve(), options)
    with running(app, "127.0.0.1:0", arguments.replicas) as url:
        measure(f"Ray Serve, {arguments.replicas} replicas of each", of_desk(url), asked, arguments.clients)
    with ExitStack() as stack:
        classes, replies = (stack.enter_context(single(path)) for path in (arguments.intent, arguments.dialogue))
        measure("two services of a process each", of_services(classes, replies), asked, arguments.clients)


def encoded(path: Path) -> str:
    """Return a file as a client sends it, in base64.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise InputError(f"cannot read {path}", got=reason(error)) from error


def of_services(classes: str, replies: str) -> Ask:
    """Ask one service for the class and the other for the reply, at a time."""

    async def part(session: aiohttp.ClientSession, url: str, inputs: dict[str, str]) -> bytes:
        async with session.post(url, json={"inputs": inputs}) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def ask(session: aiohttp.ClientSession, inputs: dict[str, str]) -> dict[str, Any]:
        classed, replied = await asyncio.gather(
            part(session, f"{classes}/v1/predict", inputs), part(session, f"{replies}/v1/generate", inputs)
        )
        found = json.loads(classed)
        return {"class": found["label"], "score": found["score"], "reply": reply(replied)}

    return ask


def measure(name: str, ask: Ask, asked: list[dict[str, str]], clients: int) -> None:
    """Ask everything, so many at a time, and print the first answer, throughput and times."""
    answers, times_s, took_s = ask_all(ask, asked, clients)
    if None in answers:
        sys.exit(f"{name}: {answers.count(None)} of {len(asked)} requests got no answer")
    p50, p90 = (1e3 * statistics.quantiles(times_s, n=10, method="inclusive")[tenth] for tenth in (4, 8))
    print(name)
    print(f"  {asked[0]['text']!r}: {json.dumps(answers[0], ensure_ascii=False)}")
    print(f"  {len(asked) / took_s:.1f} answers per second, p50 {p50:.0f} ms, p90 {p90:.0f} ms", flush=True)


@contextmanager
def single(bundle: Path) -> Iterator[str]:
    """Serve a bundle by one process, and yield where."""
    command = [sys.executable, "-m", "edgefuse", "serve", str(bundle), "--http", "127.0.0.1:0", "--queue", "256"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = ""
            while not said.rstrip().endswith("}"):
                line = process.stdout.readline()
                if not line:
                    sys.exit(f"the service of {bundle} does not start")
                said += line
            yield json.loads(said)["http"]
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
