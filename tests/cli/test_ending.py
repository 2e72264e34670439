"""How a command that works for long is ended from outside."""

from __future__ import annotations

import os
import signal
from threading import Thread

import pytest

from edgefuse.commands.ending import as_interrupted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_signal_of_a_build_server_is_an_interrupt(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # where tests run under nohup, one is ignored
    try:
        with pytest.raises(KeyboardInterrupt), as_interrupted():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_who_ignores_a_signal_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with as_interrupted():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def use() -> None:
        with as_interrupted():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
