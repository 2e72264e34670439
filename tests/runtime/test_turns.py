"""Turns: whoever waits for the runtime is served in the order of asking."""

from __future__ import annotations

import threading
import time

import pytest

from edgefuse.runtime.turns import Turns


def test_who_asks_first_is_served_first() -> None:
    turns, served = Turns(), list[int]()

    def ask(number: int) -> None:
        with turns:
            served.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert served == list(range(8))


def test_an_error_passes_the_turn_on() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns:
        _ = 1 / 0
    with turns:
        pass
    assert not turns._taken
