"""`edgefuse serve` as a process: where it listens, what it does at each signal."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgefuse.cli import main
from edgefuse.commands.serve import _opened, _start
from edgefuse.runtime.live import Live
from edgefuse.serve.queue import Queue

BODY = json.dumps({"inputs": {"motion": [[[0.5, 0.25, -1.0]] * 3]}})


@contextmanager
def running(*arguments: str | Path, before: str = "") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start it after some lines of Python, and give the process and the port that it tells."""
    with started(*arguments, "--http", "127.0.0.1:0", "--json", before=before) as (process, text):
        yield process, int(json.loads(text)["http"].rpartition(":")[2])


@contextmanager
def started(*arguments: str | Path, before: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start it after some lines of Python, and give the process and the first line that it writes."""
    program = f"import sys, threading\n{before}\nfrom edgefuse.cli import main\nsys.exit(main())"
    command = [sys.executable, "-c", program, "serve", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        text = process.stdout.readline()
        assert text, process.communicate()
        yield process, text
    finally:
        process.kill()
        process.communicate()


def predict(port: int) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v1/predict", BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


def test_sigterm_under_load_answers_all_that_was_admitted(tiny_bundle: Path) -> None:
    seen: list[int] = []

    def load(process: subprocess.Popen[str], port: int) -> None:
        while process.poll() is None:  # the port may be somebody else's afterwards
            try:
                seen.append(predict(port)[0])
            except ConnectionRefusedError:
                return
            except (ConnectionError, http.client.HTTPException):  # accepted by the system, never read
                seen.append(0)
                return

    patient = "from edgefuse.commands import serve\nserve._END_S = 60"  # how long it takes is for the benchmarks to say
    with (
        ThreadPoolExecutor(8) as clients,  # whose work is over when the process is
        running(tiny_bundle, "--queue", "4", before=patient) as (process, port),
    ):
        loads = [clients.submit(load, process, port) for _ in range(8)]
        while seen.count(200) <= 8:
            assert not any(one.done() for one in loads)
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=120)
    for one in loads:
        one.result()
    assert process.returncode == 0, complaints
    assert set(seen) <= {200, 429, 503, 0}
    assert "did not end in time" not in complaints


def test_it_is_gone_in_time_whatever_cannot_be_closed(tiny_bundle: Path) -> None:
    before = """
from edgefuse.commands import serve
from edgefuse.runtime.live import Live
serve._END_S, Live.close = 2, lambda live: threading.Event().wait()
"""
    with running(tiny_bundle, before=before) as (process, _):
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=60)
    assert (process.returncode, "could not be closed" in complaints) == (1, True)


def test_a_bundle_that_is_being_opened_holds_no_end_up() -> None:
    before = """
from edgefuse.commands import serve
serve._opened = lambda _: print("opening", flush=True) or threading.Event().wait()
"""
    with started("nowhere.edgefuse", before=before) as (process, text):
        assert text == "opening\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


def test_sighup_answers_with_what_is_there_now(tiny_bundle: Path) -> None:
    with running(tiny_bundle) as (process, port):
        before = predict(port)[1]["digest"]
        process.send_signal(signal.SIGHUP)
        assert predict(port)[1]["digest"] == before
        os.kill(process.pid, 0)


def test_what_is_wrong_is_said_before_it_serves(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--http", "0.0.0.0:0"], "only this machine may be served"),
        (["--http", "nowhere"], "no address"),
        (["--tls-cert", "a"], "a certificate and its key"),
        (["--queue", "0"], "depth is too small"),
        (["--timeout", "0"], "deadline is out of range"),
        (["--timeout", "inf"], "deadline is out of range"),
        (["--token-file", "/nonexistent"], "token cannot be read"),
        (["--digest", "0" * 64], "digest"),
    ):
        assert main(["serve", str(tiny_bundle), *arguments]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(("library", "service"), [("flask", "--http"), ("wyoming", "--wyoming")])
def test_a_library_that_is_missing_is_told_of_before_anything_is_opened(library: str, service: str) -> None:
    program = f"import sys; sys.modules[{library!r}] = None; from edgefuse.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", "nowhere.edgefuse", service, "tcp://127.0.0.1:0"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (2, "")
    assert "pip install 'edgefuse[serve]'" in told.stderr


def test_nothing_of_a_request_is_remembered(tiny_bundle: Path) -> None:
    arguments = argparse.Namespace(bundle=tiny_bundle, digest=None, rung=None, backend=None, threads=1)
    with _opened(arguments) as live:
        pipeline = live.pipeline
        for _ in range(2):
            pipeline(text="please stop")
        assert (pipeline.cache.hits, pipeline.cache.misses) == (0, 0)


def test_each_place_in_the_queue_has_a_thread_and_refusals_have_more(tiny_bundle: Path) -> None:
    arguments = argparse.Namespace(
        wyoming=None, http="127.0.0.1:0", max_body=1, timeout=30.0, token_file=None, tls_cert=None, tls_key=None
    )
    with Live(tiny_bundle) as live:
        queue = Queue(live, 40)
        _, (close,) = _start(arguments, queue, live)
        assert len([one for one in threading.enumerate() if one.name.startswith("CP Server")]) > queue.depth
        close(5.0)
        queue.close()
