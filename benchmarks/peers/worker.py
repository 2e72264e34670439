"""What runs inside a peer's environment; it needs numpy and the peer, nothing of edgefuse.

`python -m benchmarks.peers.worker build QUANTIZER SETTING SUBJECT FOLDER` makes a file once and ends.
`python -m benchmarks.peers.worker serve RUNTIME FILE SUBJECT` opens a file and answers commands until its input ends.

Messages are lines of JSON. Peers print what they like, so the pipe is moved out of the way of their standard output.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.peers.subject import Array, Feeds, Subject

Call = Callable[[Feeds], Array]

_TIMED_ITEMS = 32


def main(arguments: list[str]) -> None:
    """Do one of the two."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    action, module, *rest = arguments
    if action == "build":
        setting, subject, folder = rest
        quantizer = importlib.import_module(f"benchmarks.peers.quantizers.{module}")
        files = quantizer.build(setting, Subject(Path(subject)), Path(folder))
        _reply(replies, {"files": [str(path) for path in files]})
    else:
        file, place = rest
        subject_ = Subject(Path(place))
        runtime = importlib.import_module(f"benchmarks.peers.runtimes.{module}")
        serve(runtime.open_file(Path(file), subject_), subject_, sys.stdin, replies)


def serve(call: Call, subject: Subject, commands: TextIO, replies: TextIO) -> None:
    """Answer `judge` and `time` until the commands end."""
    timed = _Timed(call, subject)
    _reply(replies, {"ready": True})
    for line in commands:
        command = json.loads(line)
        if command["do"] == "judge":
            judge(call, subject, command["items"], Path(command["file"]))
            _reply(replies, {"file": command["file"]})
        else:
            _reply(replies, {"ns": timed(command["settle"], command["burst"])})


def judge(call: Call, subject: Subject, items: int, file: Path) -> None:
    """Write the first output of the test split's first items, for every subset: [items, ...] per subset name."""
    split = subject.split("test")
    answers: dict[str, Any] = {}
    for subset in subject.about.subsets:
        chosen = split.items(subset)[:items]
        answers["+".join(subset)] = np.concatenate([np.array(call(split.feeds(i, subset))) for i in chosen])
    np.savez(file, **answers)


class _Timed:
    """Calls on test items in turn, every modality present: some untimed, then a burst of timed ones."""

    def __init__(self, call: Call, subject: Subject) -> None:
        split, full = subject.split("test"), subject.about.subsets[0]
        self._call = call
        self._feeds = cycle([split.feeds(index, full) for index in split.items(full)[:_TIMED_ITEMS]])

    def __call__(self, settle: int, burst: int) -> list[int]:
        """Return the nanoseconds of each timed call."""
        gc.collect()
        gc.disable()
        for _ in range(settle):
            self._call(next(self._feeds))
        durations = []
        for _ in range(burst):
            feeds = next(self._feeds)
            before = time.perf_counter_ns()
            self._call(feeds)
            durations.append(time.perf_counter_ns() - before)
        gc.enable()
        return durations


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
