"""What the endpoints answer, over real sockets."""

from __future__ import annotations

import base64
import io
import json
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefuse
from edgefuse.errors import InputError

Serving = Callable[..., Any]
TOKEN = "a-token-of-the-tests-0123456789"
CRLF = "\r\n"


def form(boundary: str = "x", **parts: bytes | str) -> bytes:
    """Return a multipart form: strings as fields, bytes as files."""
    made = b""
    for name, value in parts.items():
        file = '; filename="a"' if isinstance(value, bytes) else ""
        head = f'--{boundary}{CRLF}Content-Disposition: form-data; name="{name}"{file}{CRLF}{CRLF}'
        made += head.encode() + (value if isinstance(value, bytes) else value.encode()) + CRLF.encode()
    return made + f"--{boundary}--{CRLF}".encode()


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def test_json_and_forms_are_answered_as_a_call_is(serving: Serving, motion: dict[str, Any], tiny_bundle: Path) -> None:
    values = np.array(motion["inputs"]["motion"], np.float32)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    with edgefuse.load(tiny_bundle) as pipeline:
        expected = pipeline(motion=values, text="please stop")
        pictured = pipeline(image=pixels)
    client = serving()
    answer = client.ask("POST", "/v1/predict", motion)
    assert answer.status == 200
    assert answer.json["label"] == expected.label
    assert answer.json["scores"] == pytest.approx(expected.scores)
    assert answer.json["outputs"]["logits"] == expected.outputs["logits"].tolist()
    assert answer.json["present"] == ["text", "motion"]
    assert (answer.json["rung"], answer.json["digest"]) == ("float", client.live.digest)
    assert all(ms >= 0 for ms in answer.json["timing"].values())
    inputs = {"motion": base64.b64encode(npy(values)).decode(), "text": "please stop", "image": None}
    assert client.ask("POST", "/v1/predict", {"inputs": inputs}).json["outputs"] == answer.json["outputs"]
    body = form(motion=npy(values), text="please stop")
    sent = client.ask("POST", "/v1/predict", body, Content_Type="multipart/form-data; boundary=x")
    assert sent.json["outputs"] == answer.json["outputs"]
    listed = client.ask("POST", "/v1/predict", {"inputs": {"image": pixels.tolist()}})
    assert listed.json["scores"] == pytest.approx(pictured.scores)


def test_contributions_come_when_they_are_asked_for(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving()
    answer = client.ask("POST", "/v1/predict?explain=true", motion).json
    assert set(answer["contributions"]["each"]) == {"text", "motion"}
    assert answer["timing"]["preprocess_ms"] > 0
    assert "contributions" not in client.ask("POST", "/v1/predict?explain=false", motion).json
    assert client.ask("POST", "/v1/predict?explain=1", motion).status == 400


BAD: dict[str, tuple[object, int, str]] = {
    "no JSON": (b"{", 400, "the body cannot be read"),
    "invalid UTF-8": (b'{"inputs": {"text": "\xff"}}', 400, "the body cannot be read"),
    "a lone surrogate": (b'{"inputs": {"text": "\\ud800"}}', 400, "the body cannot be read"),
    "NaN": (b'{"inputs": {"motion": [[[NaN, 0, 0]]]}}', 400, "the body cannot be read"),
    "infinite": (b'{"inputs": {"motion": [[[1e300, 0, 0]]]}}', 400, "not finite"),
    "deep": (b'{"inputs": {"motion": ' + b"[" * 100_000, 400, "the body cannot be read"),
    "nested": ({"inputs": {"motion": json.loads("[" * 80 + "]" * 80)}}, 400, "'motion' is no array"),
    "ragged": ({"inputs": {"motion": [[[1, 2, 3], [1]]]}}, 400, "'motion' is no array"),
    "fractions of a picture": ({"inputs": {"image": [[0.5]]}}, 400, "'image' is no array"),
    "out of range": ({"inputs": {"image": [[300]]}}, 400, "'image' is no array"),
    "unknown": ({"inputs": {"smell": "x"}}, 400, "no such modality"),
    "unknown key": ({"inputs": {"text": "stop"}, "more": 1}, 400, "unknown field"),
    "nothing": ({"inputs": {}}, 400, "no modality is present"),
    "no base64": ({"inputs": {"image": "not base64"}}, 400, "'image' is no base64"),
    "a path": ({"inputs": {"image": "/etc/passwd/"}}, 400, "cannot be decoded"),
    "a number": ({"inputs": {"text": 1}}, 400, "no form that is known"),
    "an object": ({"inputs": {"image": {"pixels": [1]}}}, 400, "no form that is known"),
    "no body": (b"", 400, "the body cannot be read"),
}


def test_what_cannot_be_understood_gets_a_sentence(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving()
    for name, (body, status, words) in BAD.items():
        answer = client.ask("POST", "/v1/predict", body)
        error = answer.json["error"]
        assert (answer.status, error["status"], words in error["message"]) == (status, status, True), (name, error)
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/v1/predict", 405),
        ("DELETE", "/healthz", 405),
        ("OPTIONS", "/v1/model", 405),
    ):
        assert client.ask(method, path).json["error"]["status"] == status
    assert client.ask("GET", "/v1/predict").fields["Allow"] == "POST"
    assert client.ask("POST", "/v1/predict", b"x", Content_Type="text/plain").status == 415
    assert client.ask("POST", "/v1/generate", motion).json["error"]["message"].startswith("this model makes no tokens")
    twice = form(text="stop")[: -len("--x--\r\n")] + form(text="go")
    assert client.ask("POST", "/v1/predict", twice, Content_Type="multipart/form-data; boundary=x").status == 400
    assert client.ask("POST", "/v1/predict", motion).status == 200


def test_what_is_too_large_is_not_read(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving(body_bytes=4096, header_bytes=2048, parts=2)
    assert client.ask("POST", "/v1/predict", b" " * 5000).status == 413
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n"
    assert client.send(head).startswith(b"HTTP/1.1 413")
    assert client.ask("GET", "/healthz", X="y" * 4000).status == 413
    parts = form(text="stop", a="1", b="2")
    assert client.ask("POST", "/v1/predict", parts, Content_Type="multipart/form-data; boundary=x").status == 413
    assert client.ask("POST", "/v1/predict", motion).status == 200


def test_the_model_its_description_and_figures_are_told(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving()
    told = client.ask("GET", "/v1/model").json
    assert [one["name"] for one in told["model"]["modalities"]] == ["image", "text", "motion"]
    assert (told["rungs"], told["generates"]) == (["float", "small"], False)
    assert client.ask("GET", "/healthz").json == {"alive": True, "ready": True}
    client.ask("POST", "/v1/predict", motion)
    figures = client.ask("GET", "/metrics").body.decode()
    assert 'edgefuse_http_requests_total{endpoint="/v1/predict",status="200"} 1.0' in figures
    assert "edgefuse_queue_admitted_total 1.0" in figures
    paths = client.ask("GET", "/openapi.json").json["paths"]
    assert set(paths) == {"/v1/predict", "/v1/model", "/healthz", "/metrics", "/openapi.json"}


def test_what_is_over_the_queue_gets_429_with_a_time(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving(depth=2)
    with ThreadPoolExecutor(8) as clients, client.busy() as free:
        asked = [clients.submit(client.ask, "POST", "/v1/predict", motion) for _ in range(8)]
        while sum(one.done() for one in asked) < 7:
            time.sleep(0.01)
        free.set()
        answers = [one.result() for one in asked]
    assert sorted(answer.status for answer in answers) == [200, *[429] * 7]
    refused = [answer for answer in answers if answer.status == 429]
    assert all(int(answer.fields["Retry-After"]) >= 1 for answer in refused)


def test_what_is_over_the_queue_is_refused_unread_and_everything_else_goes_on(
    serving: Serving, motion: dict[str, Any]
) -> None:
    client = serving(depth=1)
    with client.busy():
        for _ in range(2):  # its JSON is not looked at
            refused = client.ask("POST", "/v1/predict?explain=true", b"{")
            assert (refused.status, refused.fields["Connection"], refused.fields["Retry-After"]) == (429, "close", "1")
            assert refused.json["error"]["message"].startswith("the queue is full: got 1 requests that wait or run")
        assert client.ask("POST", "/v1/predicted", b"{").status == 404
        assert client.ask("GET", "/v1/model").status == 200
        figures = client.ask("GET", "/metrics").body.decode()
        assert 'edgefuse_http_requests_total{endpoint="/v1/predict",status="429"} 2.0' in figures
        assert "edgefuse_queue_refused_total 2.0" in figures
    assert client.ask("POST", "/v1/predict", motion).status == 200


def test_a_service_that_drains_says_so(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving()
    assert client.queue.drain(30)
    assert client.ask("POST", "/v1/predict", motion).status == 503
    assert (client.ask("GET", "/healthz").status, client.ask("GET", "/healthz").json["ready"]) == (503, False)


def test_an_answer_that_does_not_come_is_given_up(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving(answer_s=0.2)
    with client.busy():
        assert client.ask("POST", "/v1/predict", motion).status == 503


def test_only_who_has_the_token_is_answered(serving: Serving, motion: dict[str, Any]) -> None:
    client = serving(token=TOKEN)
    for path in ("/v1/model", "/metrics", "/openapi.json"):
        assert client.ask("GET", path).status == 401
        for wrong in ("Bearer x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xe9"):
            assert client.ask("GET", path, Authorization=wrong).status == 401
        assert client.ask("GET", path, Authorization=f"Bearer {TOKEN}").status == 200
    refused = client.ask("POST", "/v1/predict", motion)
    assert (refused.status, refused.fields["WWW-Authenticate"]) == (401, "Bearer")
    assert client.ask("GET", "/healthz").status == 200


def test_without_a_token_only_this_machine_is_served_under_its_own_names(serving: Serving) -> None:
    from edgefuse.serve.http.service import HttpService

    client = serving()
    assert client.ask("GET", "/v1/model", Host="evil.example").status == 421
    assert client.ask("GET", "/v1/model", Host="localhost:1").status == 200
    for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:80", "example.com:80"):
        with pytest.raises(InputError, match="only this machine may be served"):
            HttpService(address, client.queue, client.live)
    with pytest.raises(InputError, match="no address"):
        HttpService("a..b:0", client.queue, client.live, token="x" * 32)
    with pytest.raises(InputError, match="no address"):
        HttpService("8080", client.queue, client.live)


def test_https(serving: Serving, tmp_path: Path, motion: dict[str, Any]) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    client = serving(tls=(certificate, key))
    context = ssl.create_default_context(cafile=str(certificate))
    request = urllib.request.Request(f"{client.service.url}/v1/predict", json.dumps(motion).encode())
    request.add_header("Content-Type", "application/json")
    with ExitStack() as stack:
        for _ in range(3):  # no handshake holds us up
            stack.enter_context(socket.create_connection(client.address))
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            assert json.load(answer)["label"]
        assert b"200 OK" not in client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with pytest.raises(InputError, match="cannot be used"):
        serving(tls=(key, certificate))
