"""The assistant of `examples/voice/` over recordings: `python -m benchmarks.soak_services.spoken BUNDLE FOLDER OUT`.

What a folder holds is made by `recorded`. Each recording goes the way that a WAV goes there: voice activity, the model,
a reply, speech. The first utterance that is found in it is the one that is judged.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

import edgefuse
from edgefuse.datasets import intent
from edgefuse.typed_json import decode
from examples.voice import assistant
from examples.voice.voice_activity import CHUNK, SAMPLE_RATE_HZ, VoiceActivity, chunks_of, utterances

GIVEN = (
    ("speech",),
    ("text",),
    ("speech", "text"),
    ("speech", "picture"),
    ("text", "picture"),
    ("speech", "text", "picture"),
)
"""What the assistant is given, in turn."""
WAITS_MS = 1e3 * 12 * CHUNK / SAMPLE_RATE_HZ
"""Silence after which an utterance has ended, as `voice_activity` has it: the assistant waits for it."""
_NAMES = {"speech": "audio", "text": "text", "picture": "image"}
_ITEMS = "items.json"
_QUIET = 10.0
"""Of the noise in the second before and the one after a request: the deviation of its samples, of 32,768."""


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request.

    Attributes:
        text: as it was typed.
        language: that it is in.
        labels: what is meant, by output.
    """

    text: str
    language: str
    labels: dict[str, str]


class Heard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the assistant made of a request.

    Attributes:
        utterances: that were found in its recording.
        labels: what it understood, by what it was given (`+` between) and by output.
        reply: what it said.
        answered_ms: from the end of the utterance to the spoken reply, the wait for silence not counted; None without
            an utterance.
    """

    utterances: int
    labels: dict[str, dict[str, str]]
    reply: str
    answered_ms: float | None


def recorded(folder: Path, count: int) -> list[Item]:
    """Write recordings and pictures of the test split, whose voices no training has heard, and what they mean.

    Fetches all that the assistant needs.

    Args:
        folder: to which they are written.
        count: of requests.

    Raises:
        DataError: a package cannot be fetched, or the speech engine fails.
    """
    VoiceActivity()
    settings = intent.Settings(before_ms=(0.0, 0.0))  # voice activity is what begins earlier or later
    split, rng = intent.items("test", settings), np.random.default_rng(0)
    found = []
    for number in range(min(count, len(split))):
        given, request = split[number].inputs, split.request(number)
        around = [np.rint(_QUIET * rng.standard_normal(SAMPLE_RATE_HZ)).astype(np.int16) for _ in range(2)]
        said = np.concatenate([around[0], np.asarray(given["audio"]), around[1]])
        assistant.write(folder / f"{number}.wav", said.astype(np.int16))
        Image.fromarray(np.asarray(given["image"])).save(folder / f"{number}.png")
        found.append(Item(str(given["text"]), request.language, split.labels(number)))
    (folder / _ITEMS).write_bytes(msgspec.json.encode(found))
    return found


def heard(pipeline: edgefuse.Pipeline, item: Item, wav: Path, image: Path, reply: Path) -> Heard:
    """Return what the assistant makes of a request.

    Args:
        pipeline: of the model.
        item: the request.
        wav: its recording.
        image: of the room.
        reply: where what it says is written.
    """
    found = list(utterances(chunks_of(assistant.read(wav))))
    raw = {"text": item.text, "image": image} | ({"audio": found[0]} if found else {})
    labels = {}
    for given in GIVEN:
        inputs = {_NAMES[one]: raw[_NAMES[one]] for one in given if _NAMES[one] in raw}
        labels["+".join(given)] = assistant.labels_of(pipeline(**inputs)) if inputs else {}
    asked = argparse.Namespace(text=item.text, image=image, language=item.language, min_score=0.5, reply=reply)
    if not found:
        return Heard(0, labels, "", None)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assistant.answer(pipeline, found[0], None, asked)
    line = json.loads(told.getvalue())
    return Heard(len(found), labels, line["reply"], sum(line["ms"].values()))


def main() -> None:
    """Let the assistant hear all recordings of a folder, and write what it made of them."""
    bundle, folder, out = map(Path, sys.argv[1:])
    items = decode((folder / _ITEMS).read_bytes(), list[Item])
    reply = out.with_name("reply.wav")
    with edgefuse.load(bundle) as pipeline:
        found = [
            heard(pipeline, item, folder / f"{number}.wav", folder / f"{number}.png", reply)
            for number, item in enumerate(items)
        ]
    out.write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
