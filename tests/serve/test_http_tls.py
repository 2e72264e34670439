"""HTTPS with a throwaway certificate; peers that are silent or speak no TLS stop nobody."""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import subprocess
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from edgefuse.errors import InputError
from edgefuse.serve.http.service import Settings
from edgefuse.serve.http.tls import Tls
from tests.serve.web import connect, exchange, serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("a certificate is made with the command openssl, which is not installed")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "cert.pem", folder / "key.pem"
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    named = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    subprocess.run([*made, *named, "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True)
    return paths


def test_predictions_come_over_tls(tiny_bundle: Path, certificate: tuple[Path, Path]) -> None:
    with serving(tiny_bundle, Settings(tls=Tls(*certificate))) as service, contextlib.ExitStack() as stack:
        assert service.url.startswith("https://127.0.0.1:")
        for _ in range(20):
            stack.enter_context(connect(service.url))  # and say nothing
        assert exchange(service.url, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").count(b"HTTP") == 0
        context = ssl.create_default_context(cafile=certificate[0])
        connection = HTTPSConnection(service.url.removeprefix("https://"), timeout=60, context=context)
        for size in (1, 200_000):
            body = json.dumps({"inputs": {"text": "go " * size}})
            connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["present"]) == (200, ["text"])
        kept = connection.sock
        connection.request("POST", "/v1/predict", "{", {"Content-Type": "application/json"})
        assert connection.getresponse().status == 400
        assert connection.sock is kept
        connection.close()


def test_no_old_tls(tiny_bundle: Path, certificate: tuple[Path, Path]) -> None:
    assert Tls(*certificate).context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_what_is_no_certificate_is_told(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("hello")
    for pair in ((certificate[0], tmp_path / "no.pem"), (tmp_path / "nowhere", certificate[1]), certificate[::-1]):
        with pytest.raises(InputError, match=r"the certificate .* and the key .* cannot be used"):
            Tls(*pair)
