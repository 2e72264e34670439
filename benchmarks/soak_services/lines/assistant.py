"""The voice assistant end to end on recordings of voices it never heard: what it understands, and how soon it replies.

Requests of the test split of `intent`, said by voices and in accents that training has not heard (eSpeak NG:
synthetic), go through `examples/voice/` as WAVs: voice activity, the model, a reply, speech. Told are the share of
intents that are right by what the assistant is given, and the time from the end of speech to the spoken reply, the
0.4 s of silence that it waits for among it.

It runs where nothing can be reached and all but its own folder is read-only; some of the requests are heard again
without that, and must be answered alike.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak.line import Line, Setting
from benchmarks.soak_services import shut, spoken
from benchmarks.soak_services.spoken import GIVEN, WAITS_MS, Heard, Item
from edgefuse.errors import MeasureError
from edgefuse.measure.statistics import percentile
from edgefuse.typed_json import decode

EXPORTS = ("intent/recipe.toml",)
ITEMS, AGAIN, FEW = 300, 20, 10
LOSES = 0.02
"""By which a share may fall when more is given: what so few requests cannot tell."""
_LEAVES = ["heard.json", "reply.wav"]


def run(setting: Setting) -> Line:
    """Let the assistant hear the requests."""
    bundle = setting.bundle(*EXPORTS).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        said, own, open_ = (Path(scratch) / name for name in ("said", "own", "open"))
        for folder in (said, own, open_):
            folder.mkdir()
        items = spoken.recorded(said, ITEMS if setting.minutes is None else FEW)
        command = [sys.executable, "-m", "benchmarks.soak_services.spoken", str(bundle), str(said)]
        shut.run([*command, str(own / _LEAVES[0])], own)
        found, written = _read(own), shut.written(own)
        again = spoken.recorded(said, min(AGAIN, len(items)))
        subprocess.run([*command, str(open_ / _LEAVES[0])], check=True)
        alike = [one.labels for one in _read(open_)] == [one.labels for one in found[: len(again)]]
    figures, ok = judged(items, found)
    figures |= {"alike_with_a_network": alike, "written": written}
    return Line(line="assistant", figures=figures, ok=ok and alike and written == _LEAVES)


def judged(items: Sequence[Item], found: Sequence[Heard]) -> tuple[dict[str, Any], bool]:
    """Return the figures, and whether they show what they must.

    Args:
        items: the requests.
        found: what the assistant made of each.
    """
    if len(items) != len(found):
        raise MeasureError("not every request was heard", got=len(found), expected=len(items))
    names = ["+".join(given) for given in GIVEN]
    right = {
        name: {
            output: float(np.mean([one.labels[name].get(output) == item.labels[output] for item, one in both]))
            for output in ("intent", "area")
        }
        for name in names
        if (both := list(zip(items, found, strict=True)))
    }
    took_ms = np.array([WAITS_MS + one.answered_ms for one in found if one.answered_ms is not None])
    figures = {
        "requests": len(items),
        "heard_as_one_utterance": float(np.mean([one.utterances == 1 for one in found])),
        "right": right,
        "reply_p50_ms": float(np.median(took_ms)) if took_ms.size else None,
        "reply_p90_ms": percentile(took_ms, 0.9) if took_ms.size else None,
    }
    return figures, all(
        right[more]["intent"] >= right[less]["intent"] - LOSES
        for less, more in (
            ("speech", "speech+text"),
            ("text", "speech+text"),
            ("speech+picture", "speech+text+picture"),
            ("text+picture", "speech+text+picture"),
        )
    )


def _read(folder: Path) -> list[Heard]:
    return decode((folder / _LEAVES[0]).read_bytes(), list[Heard])
