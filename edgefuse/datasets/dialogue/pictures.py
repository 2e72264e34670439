"""Six rooms, each as a drawing of a thing that stands in it: **synthetic** pictures."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edgefuse.datasets.digits.images import Degradation, render

_CAMERA = Degradation(scale=(1.5, 2.1), angle=(-15.0, 15.0), contrast=(60.0, 170.0), noise=(5.0, 30.0), bars=(0, 2))
_POT = ("rectangle 7 11 20 22", "line 4 14 7 14", "line 20 14 23 14", "line 6 9 21 9", "line 13 6 14 9")
_BED = ("line 3 8 3 22", "rectangle 3 16 25 19", "line 25 16 25 22", "ellipse 5 11 11 16")
_TUB = (
    "chord 3 6 25 24 0 180",
    "line 2 15 26 15",
    "line 22 15 22 6",
    "line 22 6 18 6",
    "line 7 23 6 26",
    "line 21 23 22 26",
)
_SOFA = (
    "rectangle 7 8 21 15",
    "rectangle 3 13 7 21",
    "rectangle 21 13 25 21",
    "line 7 20 21 20",
    "line 5 21 5 24",
    "line 23 21 23 24",
)
_CAR = (
    "rectangle 2 14 26 20",
    "line 7 14 10 8",
    "line 10 8 18 8",
    "line 18 8 22 14",
    "ellipse 5 18 11 24",
    "ellipse 17 18 23 24",
)
_DESK = ("line 3 19 25 19", "line 5 19 5 26", "line 23 19 23 26", "rectangle 9 6 21 15", "line 15 15 15 19")
_DRAWINGS = (_POT, _BED, _TUB, _SOFA, _CAR, _DESK)
"""In the order of `commands.ROOMS`: kitchen, bedroom, bathroom, living room, garage, office."""


def picture(room: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return a room as a cheap camera would see its drawing, uint8 [64, 64]."""
    return render(_drawing(room), rng, _CAMERA)


@cache
def _drawing(room: int) -> npt.NDArray[np.uint8]:
    """Return the ink of a drawing, uint8 [28, 28]."""
    image = Image.new("L", (28, 28))
    pen = ImageDraw.Draw(image)
    for stroke in _DRAWINGS[room]:
        kind, *numbers = stroke.split()
        box, angles = [int(number) for number in numbers[:4]], [int(number) for number in numbers[4:]]
        if kind == "line":
            pen.line(box, fill=255, width=2)
        elif kind == "chord":
            pen.chord(box, angles[0], angles[1], fill=255)
        elif kind == "ellipse":
            pen.ellipse(box, outline=255, width=2)
        else:
            pen.rectangle(box, outline=255, width=2)
    return np.asarray(image)
