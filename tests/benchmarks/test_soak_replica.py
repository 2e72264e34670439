"""What the line of killed replicas makes of what clients saw."""

from __future__ import annotations

import pytest

from benchmarks.soak_services.lines.replica import Seen, judged

GOOD = Seen(200, True, 0.1)


@pytest.mark.parametrize(
    ("seen", "kills", "ok"),
    [
        ([GOOD, GOOD, Seen(429, False, 0.01)], [3.0], True),
        ([GOOD, Seen(500, False, 0.1)], [3.0], False),
        ([GOOD, Seen(0, False, 0.1)], [3.0], False),
        ([GOOD, Seen(503, False, 0.1)], [3.0], False),
        ([GOOD, Seen(200, False, 0.1)], [3.0], False),
        ([GOOD], [], False),
        ([Seen(429, False, 0.01)], [3.0], False),
    ],
)
def test_what_was_admitted_has_to_be_answered_right(seen: list[Seen], kills: list[float], ok: bool) -> None:
    assert judged(seen, kills)[1] is ok


def test_the_figures_add_up() -> None:
    figures, _ = judged([GOOD, GOOD, Seen(0, False, 9.0), Seen(429, False, 0.0), Seen(200, False, 1.0)], [2.0, 3.0])
    assert (figures["admitted"], figures["lost"], figures["wrong"], figures["kills"]) == (4, 1, 1, 2)
    assert figures["statuses"] == {"0": 1, "200": 3, "429": 1}
    assert figures["longest_ms"] == 9000
