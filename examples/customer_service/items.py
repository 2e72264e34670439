"""What the desk is asked to be judged: commands of the test split of `dialogue`, with the class and reply of each.

Each is a picture, a recording and a typed line, as the files that a client sends. The data set knows the reply; the
intent is the one that the package answers so. `intent` keeps the same sentences and voices for its test split, so
neither model has learned from any of them.
"""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy.typing as npt
from PIL import Image

from edgefuse.datasets import dialogue
from edgefuse.datasets.dialogue.commands import ACTIONS, Command, package_file
from edgefuse.datasets.digits.espeak import SAMPLE_RATE_HZ


class Item(NamedTuple):
    """A request and what is right.

    Attributes:
        inputs: by modality, a text or a file in base64.
        intent: the class.
        reply: word for word.
    """

    inputs: dict[str, str]
    intent: str
    reply: str


def items(count: int) -> list[Item]:
    """Return the first items of the test split, at most so many.

    Raises:
        DataError: what they are made of cannot be fetched, or the speech engine fails.
    """
    test = dialogue.items("test")
    return [
        Item(sent(test[number].inputs), intent(test.command(number)), test.reply(number))
        for number in range(min(count, len(test)))
    ]


def intent(command: Command) -> str:
    """Return the intent of a command: the one of which the package has replies that begin as the command's."""
    replies = package_file(command.language)["responses"]["intents"]
    (found,) = {
        action.intent
        for action in ACTIONS
        for template in replies[action.intent].values()
        if (fixed := template.partition("{")[0]) and command.reply.startswith(fixed)
    }
    return found


def sent(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return the inputs of a sample as a client sends them: a picture as PNG and a sound as WAV, both in base64.

    Args:
        inputs: `image`, uint8 [height, width]; `audio`, int16 [samples]; `text`.
    """
    files = {"image": _png(inputs["image"]), "audio": _wav(inputs["audio"])}
    return {name: base64.b64encode(data).decode() for name, data in files.items()} | {"text": inputs["text"]}


def _png(pixels: npt.NDArray[Any]) -> bytes:
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def _wav(samples: npt.NDArray[Any]) -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return made.getvalue()
