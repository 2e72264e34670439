"""What a client gets wrong is told in a sentence, with a status that fits; never a failure of the service."""

from __future__ import annotations

import base64
import io
import json
import logging
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from edgefuse.errors import InputError
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.service import Http, Settings
from edgefuse.serve.http.token import Token, is_loopback, token_of
from tests.serve.web import Answered, ask, exchange, form, post, serving

JSON = {"Content-Type": "application/json"}
SECRET = "0123456789abcdef-secret"
LIMITS = Limits(body_bytes=100_000, header_bytes=4_096, headers=20, parts=4)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    from edgefuse.bundle.writer import write_bundle
    from tests import tiny

    path = tmp_path_factory.mktemp("bundle") / "tiny"
    write_bundle(path, tiny.manifest(), tiny.contents())
    with serving(path, Settings(limits=LIMITS)) as found:
        yield found


def bomb() -> str:
    """A PNG of a few hundred bytes that claims 100 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10_000)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


INPUTS: Mapping[str, tuple[object, str]] = {
    "none": ({}, "no modality is present"),
    "unknown": ({"imgae": "aGk="}, "no modality 'imgae'"),
    "no-base64": ({"image": "§§§"}, "the file for 'image' is no base64"),
    "no-picture": ({"image": "aGVsbG8="}, "cannot be decoded"),
    "a-path": ({"image": "/etc/passwd"}, "no base64"),
    "bomb": ({"image": bomb()}, "image"),
    "number-as-picture": ({"image": 7}, "expected the bytes of a file in base64"),
    "number-as-text": ({"text": 7}, "expected a text"),
    "empty-text": ({"text": " "}, "the text 'text' is empty"),
    "surrogate": ({"text": "\ud800"}, "JSON"),
    "ragged": ({"motion": [[[1, 2, 3], [1]]]}, "lists of numbers of equal lengths"),
    "strings": ({"motion": [[["1", "2", "3"]]]}, "lists of numbers"),
    "nulls": ({"motion": [[[None, 1, 2]]]}, "lists of numbers"),
    "too-large": ({"motion": [[[1e300, 0, 0]]]}, "not finite"),
    "shape": ({"motion": [[1, 2, 3]]}, "wrong shape"),
    "tensors": ({"motion": {"value": [[[1, 2, 3]]]}}, "do not match its tensors"),
    "no-npy": ({"motion": "aGVsbG8="}, "cannot be read"),
    "list": ([1], "the JSON of the request cannot be used"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_wrong_inputs_are_told(service: Http, case: str) -> None:
    inputs, sentence = INPUTS[case]
    found = post(service.url, "/v1/predict", {"inputs": inputs})
    assert (found.status, found.json["error"]["code"]) == (400, "bad_request")
    assert sentence in found.sentence


BODIES: Mapping[str, tuple[bytes, dict[str, str], int, str]] = {
    "no-json": (b"{", JSON, 400, "the JSON of the request cannot be used"),
    "nan": (b'{"inputs": {"motion": [[[NaN, 1, 2]]]}}', JSON, 400, "JSON"),
    "not-utf-8": (b'{"inputs": {"text": "\xff\xfe"}}', JSON, 400, "JSON"),
    "nested": (b'{"inputs": {"text": ' + b"[" * 40_000, JSON, 400, "JSON"),
    "unknown-key": (b'{"inputs": {"text": "go"}, "rung": "small"}', JSON, 400, "rung"),
    "generation": (b'{"inputs": {"text": "go"}, "generation": {"num_beams": 2}}', JSON, 400, "/v1/generate"),
    "empty": (b"", JSON, 400, "JSON"),
    "no-type": (b"go", {}, 415, "got no Content-Type"),
    "type": (b"go", {"Content-Type": "text/plain"}, 415, "expected application/json or multipart/form-data"),
    "damaged-form": (b"--no", {"Content-Type": "multipart/form-data; boundary=part"}, 400, "no modality is present"),
    "no-boundary": (b"--no", {"Content-Type": "multipart/form-data"}, 400, ""),
    "parts": (*form({f"m{i}": "1" for i in range(5)}), 413, "at most 100000 bytes and 4 parts"),
    "too-large": (b"x" * 100_001, JSON, 413, "expected at most 100000 bytes"),
    "text-not-utf-8": (*form({"text": b"\xff"}), 400, "is not UTF-8"),
    "twice": (
        b'--p\r\nContent-Disposition: form-data; name="text"\r\n\r\ngo\r\n'
        b'--p\r\nContent-Disposition: form-data; name="text"\r\n\r\nstop\r\n--p--\r\n',
        {"Content-Type": "multipart/form-data; boundary=p"},
        400,
        "the part 'text' came 2 times",
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_wrong_bodies_are_told(service: Http, case: str) -> None:
    body, headers, status, sentence = BODIES[case]
    found = ask(service.url, "POST", "/v1/predict", body, headers)
    assert found.status == status
    assert sentence in found.sentence


def test_wrong_places_and_methods_are_told(service: Http) -> None:
    found = ask(service.url, "GET", "/etc/passwd")
    assert (found.status, found.json["error"]["code"]) == (404, "not_found")
    found = ask(service.url, "GET", "/v1/predict")
    assert (found.status, "POST" in found.headers["allow"]) == (405, True)
    found = post(service.url, "/v1/generate", {"inputs": {"text": "go"}})
    assert (found.status, "makes no tokens" in found.sentence) == (404, True)
    found = post(service.url, "/v1/predict?explain=yes", {"inputs": {"text": "go"}})
    assert (found.status, "expected true or false" in found.sentence) == (400, True)


SMUGGLED: Mapping[str, tuple[bytes, int]] = {
    "both-lengths": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two-lengths": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400),
    "chunked": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "signed-length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd", 400),
    "listed-length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd", 400),
    "endless-length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n", 413),
    "folded": (b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n Transfer-Encoding: chunked\r\n\r\n", 400),
    "space-before-colon": (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 4\r\n\r\n", 400),
    "bare-line-feed": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare-line-feed-in-header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\nContent-Length: 4\r\n\r\n", 400),
    "bare-return": (b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", 400),
    "null": (b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x00\r\n\r\n", 400),
    "no-host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two-hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "absolute": (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "version": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    "no-http": (b"hello\r\n\r\n", 400),
    "many-headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 30 + b"\r\n", 431),
    "large-header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"1" * 5_000 + b"\r\n\r\n", 431),
    "endless-header": (b"GET /" + b"a" * 5_000, 431),
}


@pytest.mark.parametrize("case", SMUGGLED)
def test_what_two_readers_could_read_in_two_ways_is_refused(service: Http, case: str) -> None:
    sent, status = SMUGGLED[case]
    answer = exchange(service.url, sent)
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in head
    assert answer.count(b"\r\n\r\n") == 1
    assert json.loads(content)["error"]["message"]


def test_a_header_is_not_taken_for_another(service: Http) -> None:
    sent = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent_Length: 4\r\nContent_Type: application/json\r\n"
    answer = exchange(service.url, sent + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 415 ")


def test_who_waits_to_send_the_body_is_told_to_go_on(service: Http) -> None:
    from tests.serve.web import connect, rest

    body = b'{"inputs": {"text": "go"}}'
    with connect(service.url) as peer:
        peer.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert peer.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(body)
        assert rest(peer).startswith(b"HTTP/1.1 200 ")


def test_requests_may_come_together(service: Http) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert exchange(service.url, one + one + b"\r\n" + last).count(b"HTTP/1.1 200 ") == 3


def test_a_token_is_asked_for_everywhere_but_for_health(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, Settings(token=Token(SECRET, "a test"))) as found:

        def asked(path: str, header: str | None) -> Answered:
            return ask(found.url, "GET", path, headers={} if header is None else {"Authorization": header})

        for path in ("/v1/model", "/metrics", "/openapi.json", "/nowhere"):
            for header in (None, "", "Bearer", "Bearer wrong", f"Basic {SECRET}", f"Bearer {SECRET}x", "Bearer \xe9"):
                answer = asked(path, header)
                assert answer.status == 401, (path, header)
                assert answer.headers["www-authenticate"] == 'Bearer realm="edgefuse"'
                assert SECRET not in answer.content.decode()
        assert asked("/healthz", None).status == 200
        assert asked("/metrics", f"Bearer {SECRET}").status == 200
        given = {"inputs": {"text": "go"}}
        assert post(found.url, "/v1/predict", given).status == 401
        assert post(found.url, "/v1/predict", given, {"Authorization": f"bearer {SECRET}"}).status == 200


def test_without_a_token_others_cannot_reach_it(tiny_bundle: Path) -> None:
    with (
        pytest.raises(InputError, match=r"without a token, others could reach .*0\.0\.0\.0.*--token-file"),
        serving(tiny_bundle, host="0.0.0.0"),
    ):
        pass
    assert all(map(is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org", "")))
    with serving(tiny_bundle, Settings(token=Token(SECRET, "a test")), host="0.0.0.0") as found:
        assert ask(found.url, "GET", "/healthz").status == 200


def test_where_a_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEFUSE_TOKEN", raising=False)
    assert token_of(None) is None
    monkeypatch.setenv("EDGEFUSE_TOKEN", SECRET)
    found = token_of(None)
    assert found is not None
    assert found.admits(f"Bearer {SECRET}")
    assert SECRET not in repr(found)
    path = tmp_path / "token"
    path.write_text("another-token-in-a-file\n")
    found = token_of(path)
    assert found is not None
    assert found.admits("Bearer another-token-in-a-file")
    assert not found.admits(f"Bearer {SECRET}")
    for text in (
        "short\n",
        "",
        "two words of a token that is long\n",
        "x" * 600,
        "a-token-of-lines\nb-token-of-lines\n",
    ):
        path.write_text(text)
        with pytest.raises(InputError, match="cannot be used"):
            token_of(path)
    with pytest.raises(InputError, match="cannot be read"):
        token_of(tmp_path / "nowhere")


def test_nothing_of_a_request_is_logged(service: Http, caplog: pytest.LogCaptureFixture) -> None:
    secret = "swordfish"
    with caplog.at_level(logging.DEBUG):
        post(service.url, "/v1/predict", {"inputs": {"text": secret}})
        post(service.url, f"/v1/predict?explain={secret}", {"inputs": {"text": secret, secret: 1}})
        ask(service.url, "GET", f"/{secret}")
        ask(service.url, "POST", "/v1/predict", *form({secret: secret}))
        exchange(service.url, f"GET /{secret}\r\n\r\n".encode())
    assert secret not in caplog.text
    assert secret not in ask(service.url, "GET", "/metrics").content.decode()


def test_large_files_of_a_form_are_not_written_anywhere(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    def refused(*arguments: object, **named: object) -> io.BytesIO:
        raise AssertionError("a file was made")

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", refused)
    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    monkeypatch.setattr("werkzeug.formparser.SpooledTemporaryFile", refused, raising=False)
    with serving(tiny_bundle) as found:
        answer = ask(found.url, "POST", "/v1/predict", *form({"image": b"x" * 2_000_000}))
    assert (answer.status, "cannot be decoded" in answer.sentence) == (400, True)
