from __future__ import annotations

from io import StringIO

import pytest

from edgefuse import progress


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_wiped_at_the_end() -> None:
    stream = Terminal()
    bar = progress.on(stream)
    bar(12, 24, "cook")
    bar(24, 24, "cook")
    bar.close()
    drawn = stream.getvalue().split("\r")
    assert drawn[1] == f"cook [{'#' * 12}{'.' * 12}] 12/24"
    assert drawn[2] == f"cook [{'#' * 24}] 24/24"
    assert drawn[3:] == [" " * len(drawn[2]), ""]
    assert "\n" not in stream.getvalue()


def test_a_terminal_is_not_drawn_on_for_every_item() -> None:
    stream = Terminal()
    bar = progress.on(stream)
    for done in range(10_000):
        bar(done, 10_000, "count")
    assert stream.getvalue().count("\r") < 200


def test_a_log_gets_a_line_at_the_beginning_and_the_end() -> None:
    stream = StringIO()
    log = progress.on(stream)
    for done in range(1, 101):
        log(done, 100, "cook")
    log(100, 100, "cook")
    log(0, 0, "choose")
    log.close()
    assert stream.getvalue().splitlines() == ["cook: 1/100", "cook: 100/100", "choose"]


def test_a_log_says_now_and_then_that_it_goes_on() -> None:
    stream = StringIO()
    log = progress.Log(stream, every_seconds=0)
    for done in range(3):
        log(done, 9, "cook")
    assert stream.getvalue().splitlines() == ["cook: 0/9", "cook: 1/9", "cook: 2/9"]


def test_a_log_keeps_works_apart_that_go_on_at_the_same_time() -> None:
    stream = StringIO()
    log = progress.on(stream)
    for done in range(1, 101):
        log(done, 100, "job 1: cook")
        log(done, 100, "job 2: bake")
    log(1, 100, "job 1: cook")  # again from the beginning
    beginning, end = ["job 1: cook: 1/100", "job 2: bake: 1/100"], ["job 1: cook: 100/100", "job 2: bake: 100/100"]
    assert stream.getvalue().splitlines() == [*beginning, *end, "job 1: cook: 1/100"]


def test_a_line_is_as_wide_as_the_terminal_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    progress.on(stream)(3, 4, "recover a stage of a long name and tell how far off it is")
    drawn = stream.getvalue().lstrip("\r")
    assert drawn == f"recover a stage of a long n… [{'#' * 18}{'.' * 6}] 3/4"
    assert len(drawn) < 60


def test_a_pace_passes_on_what_is_new() -> None:
    pace = progress.Pace(3600)
    assert [
        pace.due(1, 3, "a"),
        pace.due(2, 3, "a"),
        pace.due(3, 3, "a"),
        pace.due(1, 3, "b"),
        pace.due(2, 3, "b"),
    ] == [*(True, False, True, True, False)]
