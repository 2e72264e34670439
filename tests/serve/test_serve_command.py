"""`edgefuse serve` as a process: where it listens, another bundle by signal, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgefuse.cli import main
from edgefuse.commands.serve import _address
from edgefuse.errors import InputError
from tests.runtime.second import second
from tests.serve.web import ask, post

GIVEN = {"inputs": {"text": "please go"}}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")


@contextmanager
def process(*words: str | Path, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command at a free port; yields the process and where it listens."""
    command = [sys.executable, "-m", "edgefuse", "serve", *words, "--http", "127.0.0.1:0", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=os.environ | variables, **pipes) as running:  # type: ignore[call-overload]
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            yield running, json.loads(line)["http"]
        finally:
            running.kill()


def test_it_serves_takes_another_bundle_and_ends(tiny_bundle: Path, tmp_path: Path) -> None:
    other = second(tmp_path / "second.edgefuse")
    path = tmp_path / "served"
    path.symlink_to(tiny_bundle)
    token = "a-token-for-this-test"
    headers = {"Authorization": f"Bearer {token}"}
    with process(path, "--rung", "small", EDGEFUSE_TOKEN=token) as (running, url):
        assert ask(url, "GET", "/v1/model").status == 401
        first = post(url, "/v1/predict", GIVEN, headers).json
        assert first["rung"] == "small"
        path.unlink()
        path.symlink_to(other)
        running.send_signal(signal.SIGHUP)
        for _ in range(600):
            after = post(url, "/v1/predict", GIVEN, headers).json
            if after["digest"] != first["digest"]:
                break
            time.sleep(0.1)
        assert after["digest"] != first["digest"]
        assert after["scores"] != first["scores"]
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=60)
        assert (running.returncode, out) == (0, "")
        assert "takes the place of" in err
        assert token not in err
        assert "please" not in err


def test_the_end_under_load_loses_nothing_that_was_taken(tiny_bundle: Path) -> None:
    found: Counter[int] = Counter()
    lost: list[str] = []
    with process(tiny_bundle, "--queue", "8") as (running, url):
        ended = threading.Event()

        def ask_on() -> None:
            while not ended.is_set():
                try:
                    found[post(url, "/v1/predict", GIVEN).status] += 1
                except ConnectionRefusedError:  # it listens no more
                    return
                except OSError as error:
                    lost.append(repr(error))
                    return

        callers = [threading.Thread(target=ask_on) for _ in range(12)]
        for caller in callers:
            caller.start()
        while found[200] < 50:
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        running.wait(60)
        ended.set()
        for caller in callers:
            caller.join()
    assert running.returncode == 0
    assert set(found) <= {200, 429, 503}
    assert not [one for one in lost if "ConnectionReset" not in one]  # of the system's backlog, which nobody accepted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--http", "8080"), "this is no address to listen at"),
        (("--http", "0.0.0.0:0"), "without a token, others could reach the service"),
        (("--tls-cert", "a.pem"), "a certificate and its key go together"),
        (("--tls-cert", "a.pem", "--tls-key", "b.pem"), "cannot be used"),
        (("--token-file", "nowhere"), "cannot be read"),
        (("--rung", "none"), "no such rung"),
    ],
)
def test_what_it_cannot_serve_is_told(
    tiny_bundle: Path,
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EDGEFUSE_TOKEN", raising=False)
    assert main(["serve", str(tiny_bundle), *words]) == 2
    printed = capsys.readouterr()
    assert (printed.out, said in printed.err) == ("", True)


def test_addresses() -> None:
    assert _address("localhost:80") == ("localhost", 80)
    assert _address("[::1]:0") == ("::1", 0)
    for text in ("", "a", ":80", "::1:80", "a:b", "a:70000", "a:-1", "a:", "[]:80"):
        with pytest.raises(InputError, match="this is no address to listen at"):
            _address(text)
