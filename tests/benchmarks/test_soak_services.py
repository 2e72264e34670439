"""`make soak-services`: its lines on a small model, and what each makes of figures that are good and bad."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import edgefuse
from benchmarks.soak import registry
from benchmarks.soak.line import Setting
from benchmarks.soak_services import asking, hostility, load, shut
from benchmarks.soak_services.hostility import Outcome, Suffered
from benchmarks.soak_services.lines import assistant, describe, hostile_http, hostile_wyoming, sigterm, token
from benchmarks.soak_services.lines import load as load_line
from benchmarks.soak_services.load import Plan, Row
from benchmarks.soak_services.service import Service, Usage, serving
from benchmarks.soak_services.spoken import GIVEN, Heard, Item
from edgefuse.errors import MeasureError
from edgefuse.serve.http.service import HttpService
from edgefuse.serve.queue import Queue
from tests.serve.voice import intents

PACKAGE = "benchmarks.soak_services.lines"


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """Has a small model of sound and text in the place of `digits`; everything is repeated once."""
    folder = tmp_path / "digits-recipe"
    folder.mkdir()
    intents(folder / "small-onnx.edgefuse")
    return Setting(folder=str(tmp_path), minutes=0)


def test_the_services_and_the_assistant_have_their_lines() -> None:
    asked = {"assistant", "describe", "hostile_http", "hostile_wyoming", "load", "sigterm", "token"}
    assert asked <= set(registry.names(PACKAGE))


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(MeasureError, match=r"the service does not start: got edgefuse: error"),
        serving(tmp_path / "no"),
    ):
        pass


def test_describe_is_asked_while_the_model_is_busy(setting: Setting) -> None:
    line = describe.run(setting)
    assert (line.figures["busy"]["times"], line.figures["busy"]["p99_ms"], line.ok) == (1, None, False)
    assert line.figures["predictions_meanwhile"] >= 0


@pytest.mark.parametrize("module", [hostile_http, hostile_wyoming])
def test_hostile_clients_come_to_see_what_they_may(
    module: object, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE", 30)
    figures = module.run(setting).figures  # type: ignore[attr-defined]
    assert (figures["rounds"], figures["logged"], figures["written"], figures["seen_wrongly"]) == (1, False, [], [])
    assert len(figures["attacks"]) >= 9
    assert all(one["usual_p50_ms"] > 0 for one in figures["attacks"].values())


class _Quiet(Service):
    """A service that left something."""

    def said(self) -> bytes:
        return b"an error: secret"

    def written(self) -> list[str]:
        return []


@pytest.mark.parametrize(
    ("slower", "peak", "after", "seen", "secret", "ok"),
    [
        (1.9, 0, 0, "400", "word", True),
        (2.1, 0, 0, "400", "word", False),
        (1.0, hostility.HELD_BYTES + 1, 0, "400", "word", False),
        (1.0, 0, hostility.KEPT_BYTES + 1, "400", "word", False),
        (1.0, 0, 0, "500", "word", False),
        (1.0, 0, 0, "400", "secret", False),
    ],
)
def test_what_hostile_clients_do_is_judged(
    slower: float, peak: int, after: int, seen: str, secret: str, ok: bool, tmp_path: Path
) -> None:
    suffered = Suffered(
        usual_s=[1.0, 5.0, 1.0], under_s=[slower, 5.0 * slower, 9.0], seen=Counter([seen]), peak_bytes=100 + peak
    )
    found = Outcome({"a": suffered}, Usage(100, 100), [Usage(100, 100), Usage(100 + after, 100 + after)])
    service = _Quiet(process=None, http=("", 0), wyoming=("", 0), folder=tmp_path, log=tmp_path)  # type: ignore[arg-type] # none runs
    figures, judged = hostility.judged(found, service, secret.encode(), lambda _: {"400"})
    assert (figures["slowest"], judged) == (pytest.approx(slower), ok)


def test_a_wrong_token_is_timed_by_how_much_of_it_is_right(setting: Setting) -> None:
    figures = token.run(setting).figures
    assert figures["tokens"] >= 400
    assert len(figures["p50_us_by_right_characters"]) == 4
    assert 0 <= figures["p_value"] <= 1


def test_times_that_tell_of_a_token_are_found() -> None:
    rng = np.random.default_rng(0)
    alike = rng.exponential(1e5, (500, 4)).astype(np.int64) + 100_000
    assert token.judged(alike, (0, 1, 2, 3))[1]
    figures, ok = token.judged(alike + np.array([0, 0, 0, 30_000]), (0, 1, 2, 3))
    assert not ok
    assert figures["largest_median_difference_us"] > 10
    assert token.wrong("abcd") == {0: "bbbb"[:1] + "aaa", 1: "aaaa", 2: "abaa", 3: "abca"}


@pytest.mark.timing
def test_a_service_is_ended_under_load(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sigterm, "DEPTH", 8)
    monkeypatch.setattr(sigterm, "_LOAD_S", 0.2)
    figures = sigterm.run(setting).figures
    assert (figures["lost"], figures["seen_wrongly"], figures["codes"]) == (0, [], [0])
    assert figures["answered"] >= figures["admitted"] > 0


def test_an_end_that_loses_something_or_takes_too_long_is_found() -> None:
    good = {"code": 0, "seconds": 1.0, "queued": 5, "admitted": 9, "answered": 9, "seen": {"200": 9, "503": 2}}
    assert sigterm.judged([good, good])[1]
    for bad in ({"answered": 8}, {"seconds": 5.1}, {"code": 1}, {"queued": 0}, {"seen": {"half an answer": 1}}):
        assert not sigterm.judged([good, good | bad])[1], bad


@pytest.fixture
def served(tiny_bundle: Path) -> Iterator[tuple[str, int]]:
    """Host and port of a service."""
    with edgefuse.Live(tiny_bundle) as live:
        queue = Queue(live, 4)
        with HttpService("127.0.0.1:0", queue, live) as service:
            parts = urlsplit(service.url)
            yield str(parts.hostname), int(parts.port or 0)
        queue.close()


def test_load_comes_at_a_rate_and_by_clients(served: tuple[str, int]) -> None:
    host, port = served
    body = asking.body({"text": "stop"})
    asked = load.rows(Plan(host=host, port=port, body=body, seconds=0.5, rate_hz=40))
    assert 5 < len(asked) < 60  # some 20: the seed is fixed
    assert {row.status for row in asked} <= {200, 429}
    assert all(row.retry == (row.status == 429) and row.took_s > 0 for row in asked)
    assert len(load.rows(Plan(host=host, port=port, body=body, seconds=2, clients=2))) >= 2
    gone = load.rows(Plan(host=host, port=1, body=body, seconds=0.1, rate_hz=50))
    assert {row.status for row in gone} == {0}


def test_load_is_judged() -> None:
    def rows(answered: int, refused: int, took_s: float, retry: bool = True, others: int = 0) -> list[Row]:
        kinds = [(200, False)] * answered + [(429, retry)] * refused + [(0, False)] * others
        return [Row(0.0, 0.0, took_s, status, again) for status, again in kinds]

    alone_ms = [10.0] * 1000  # so 10 + 16 * 10 ms are the most
    for asked, ok in (
        (rows(1000, 9000, 0.16), True),
        (rows(1000, 9000, 0.18), False),
        (rows(700, 9000, 0.16), False),
        (rows(1000, 9000, 0.16, retry=False), False),
        (rows(1000, 9000, 0.16, others=1), False),
    ):
        figures, judged = load_line.judged(alone_ms, 100.0, {10: (asked, 10.0)})
        assert judged == ok, figures
    assert not load_line.judged([10.0], 100.0, {})[1]  # too few for a p99


def test_what_the_assistant_understood_is_judged() -> None:
    names = ["+".join(given) for given in GIVEN]
    items = [Item("go", "en", {"intent": "a", "area": "hall"}), Item("stop", "en", {"intent": "b", "area": "none"})]
    right = [dict.fromkeys(names, item.labels) for item in items]
    heard = [Heard(1, labels, "well", 600.0) for labels in right]
    figures, ok = assistant.judged(items, heard)
    assert ok
    assert figures["right"]["speech+text"] == {"intent": 1.0, "area": 1.0}
    assert (figures["reply_p50_ms"], figures["reply_p90_ms"]) == (984.0, None)
    worse = [Heard(0, right[0] | {"speech+text": right[1]["text"]}, "", None), heard[1]]
    figures, ok = assistant.judged(items, worse)
    assert (ok, figures["heard_as_one_utterance"]) == (False, 0.5)
    with pytest.raises(MeasureError, match="not every request was heard: got 1, expected 2"):
        assistant.judged(items, heard[:1])


def test_a_command_that_is_shut_in_reaches_and_writes_nothing(tmp_path: Path) -> None:
    own, outside = tmp_path / "own", tmp_path / "outside"
    own.mkdir()
    code = (
        "import pathlib, socket, sys\n"
        f"pathlib.Path({str(own / 'inside')!r}).touch()\n"
        f"try: pathlib.Path({str(outside)!r}).touch()\n"
        "except OSError: pass\n"
        "try: socket.create_connection(('192.0.2.1', 80), timeout=1)\n"
        "except OSError as error: print(error.errno)\n"
        "else: sys.exit('reached')\n"
    )
    try:
        shut.run([sys.executable, "-c", "pass"], own)
    except MeasureError as error:
        pytest.skip(f"not checked: {error}")
    for folder in own.iterdir():
        folder.rmdir()
    shut.run([sys.executable, "-c", code], own)
    assert shut.written(own) == ["inside"]
    assert not outside.exists()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(MeasureError, match="a command failed where nothing can be reached or written: got broken"):
        shut.run([sys.executable, "-c", "import sys; sys.exit('broken')"], other)
