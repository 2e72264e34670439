"""Every status that is answered is in the description and in the documentation, and who may ask is asked first."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefuse.serve.ray.ingress import Ingress
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.replica import Answered, Asked
from tests.serve.conftest import Client
from tests.serve.test_http import TOKEN
from tests.serve.test_ray_ingress import BODY, Handle, asked, echo

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "serve.md"
HOST = "Host: localhost\r\n"
WIRE = {
    400: ("1.1", ""),
    408: ("1.1", HOST + "X: half a head"),
    411: ("1.1", HOST + "Transfer-Encoding: chunked\r\n"),
    413: ("1.1", HOST + "Content-Length: 99999999999\r\n"),
    421: ("1.1", "Host: elsewhere\r\nConnection: close\r\n"),
    501: ("1.1", HOST + "Transfer-Encoding: gzip\r\n"),
    505: ("2.0", HOST),
}
"""By status, the version and the fields of a request that gets it wherever it goes."""


def test_what_is_answered_is_described(serving: Callable[..., Client]) -> None:
    client = serving(read_s=0.2)
    paths = client.ask("GET", "/openapi.json").json["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            for status, (version, fields) in WIRE.items():
                answer = client.send(f"{method.upper()} {path} HTTP/{version}\r\n{fields}\r\n".encode())
                assert answer[9:12] == b"%d" % status, (method, path, answer)
                assert str(status) in operation["responses"], (method, path, status)
            assert {"429", "500"} <= set(operation["responses"])


def test_a_body_that_nobody_reads_is_not_waited_for(serving: Callable[..., Client]) -> None:
    for rest in (b"", b"{"):
        answer = serving(read_s=0.2).send(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n" + rest
        )
        assert answer.startswith(b"HTTP/1.1 200 OK"), answer


def test_what_is_answered_is_documented(serving: Callable[..., Client]) -> None:
    (told,) = re.findall(r"What cannot be answered gets .*?(?=\nNothing of a request)", DOCUMENTATION.read_text(), re.S)
    document = serving(token=TOKEN).ask("GET", "/openapi.json", Authorization=f"Bearer {TOKEN}").json
    operations = [one for path in document["paths"].values() for one in path.values()]
    described = {status for one in operations for status in one["responses"]} - {"200"}
    assert described | {"404", "405"} == set(re.findall(r"\b[45]\d\d\b", told))


def test_who_has_no_token_hears_nothing_of_the_queue(serving: Callable[..., Client], motion: dict[str, Any]) -> None:
    client = serving(depth=1, token=TOKEN)
    with client.busy():
        for fields in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
            refused = client.ask("POST", "/v1/predict", motion, **fields)
            assert (refused.status, refused.fields["WWW-Authenticate"]) == (401, "Bearer")
            assert "Retry-After" not in refused.fields
        assert client.queue.refused == 0
        head = f"POST /v1/predict HTTP/1.1\r\n{HOST}aUTHORIZATION:\t Bearer {TOKEN} \r\nContent-Length: 9\r\n\r\n"
        assert client.send(head.encode()).startswith(b"HTTP/1.1 429 ")  # unread, as before
        assert client.send(head.replace("Bearer", "bear").encode()).startswith(b"HTTP/1.1 401 ")
    good = client.ask("POST", "/v1/predict", motion, Authorization=f"Bearer {TOKEN}")
    assert good.status == 200
    figures = client.ask("GET", "/metrics", Authorization=f"Bearer {TOKEN}").body.decode()
    assert 'edgefuse_http_requests_total{endpoint="/v1/predict",status="401"} 4.0' in figures


@pytest.mark.parametrize("pause", range(1, 4))
def test_a_head_in_pieces_is_heard_to_its_end_before_the_token_is_missed(
    serving: Callable[..., Client], motion: dict[str, Any], pause: int
) -> None:
    client, body = serving(token=TOKEN), json.dumps(motion).encode()
    gate, heads = client.service._server.gate, []

    def told(begun: bytearray) -> bytes | None:
        heads.append(bytes(begun))
        return gate(begun)

    client.service._server.gate = told
    head = f"POST /v1/predict HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    rest = f"Authorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n".encode() + body
    with socket.create_connection(client.address, timeout=60) as peer:
        peer.sendall(head.encode())
        while not heads:
            time.sleep(0.001)
        for begin in range(0, len(rest), 40 * pause):
            peer.sendall(rest[begin : begin + 40 * pause])
        assert peer.recv(15) == b"HTTP/1.1 200 OK"


def test_in_front_of_replicas_a_place_is_for_those_with_the_token() -> None:
    async def scenario() -> list[int]:
        gone = asyncio.Event()

        async def busy(requests: list[Asked]) -> list[Answered]:
            await gone.wait()
            return await echo(requests)

        front = Ingress(Handle(busy), Options(depth=2), TOKEN)  # type: ignore[arg-type]
        bare = [await front(asked("POST", b"/v1/predict", b"{", None)) for _ in range(3)]  # a body without an end
        given = [asked("POST", b"/v1/predict", BODY) for _ in range(3)]
        for one in given:
            one.scope["headers"].append((b"authorization", f"Bearer {TOKEN}".encode()))
        waiting = [asyncio.ensure_future(front(one)) for one in given]
        await asyncio.sleep(0)
        full = await front(asked("POST", b"/v1/predict", BODY))
        gone.set()
        assert bare[0].headers["www-authenticate"] == "Bearer"
        return [one.status_code for one in [*bare, full, *await asyncio.gather(*waiting)]]

    assert asyncio.run(scenario()) == [401, 401, 401, 401, 200, 200, 429]
