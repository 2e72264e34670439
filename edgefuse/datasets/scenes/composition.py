"""Which things are where in a scene, and its picture.

A scene is two rows by two columns of places, two to four of which hold a thing: a digit or a piece of clothing, in a
colour. No two things of a scene are of one kind or of one colour, and at least two are beside or above each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.scenes.material import Material
from edgefuse.datasets.scenes.names import COLOURS, DIGITS, KINDS, RELATIONS

SIZE = 96
"""Pixels of a scene, in height and in width."""

PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Rows and columns."""

_CELL = SIZE // 2
_SIDES = ((0, 1), (2, 3), (0, 2), (1, 3))  # pairs of places that are beside or above each other
_COUNTS = tuple((digits, count - digits) for count in (2, 3, 4) for digits in range(count + 1))
_SCALE = (1.15, 1.5)
_ANGLE = (-10.0, 10.0)


@dataclass(frozen=True)
class Thing:
    """A digit or a piece of clothing in a scene.

    Attributes:
        kind: a name of `KINDS`.
        colour: a name of `COLOURS`.
        row: 0 or 1, from above.
        column: 0 or 1, from the left.
        picture: its place in the split's material.
    """

    kind: str
    colour: str
    row: int
    column: int
    picture: int

    @property
    def is_digit(self) -> bool:
        """Whether it is one."""
        return self.kind in DIGITS


@dataclass(frozen=True)
class Scene:
    """Two to four things."""

    things: tuple[Thing, ...]

    def beside(self, thing: Thing, relation: str) -> Thing | None:
        """Return what is left of, right of, above or below a thing, if anything is."""
        rows, columns = RELATIONS[relation]
        place = (thing.row + rows, thing.column + columns)
        return next((one for one in self.things if (one.row, one.column) == place), None)

    def pairs(self) -> Iterator[tuple[Thing, str, Thing]]:
        """Yield all pairs of things as subject, relation and object: the first is left of the second, say."""
        for thing in self.things:
            for relation in RELATIONS:
                if (subject := self.beside(thing, relation)) is not None:
                    yield subject, relation, thing


def draw(material: Material, rng: np.random.Generator) -> Scene:
    """Draw a scene: how many digits and clothes, which, in which colours, and where."""
    digits, clothes = _COUNTS[int(rng.integers(len(_COUNTS)))]
    kinds = [
        *rng.choice(len(DIGITS), digits, replace=False),
        *(len(DIGITS) + rng.choice(len(KINDS) - len(DIGITS), clothes, replace=False)),
    ]
    colours = rng.choice(len(COLOURS), len(kinds), replace=False)
    places = list(_SIDES[int(rng.integers(len(_SIDES)))]) if len(kinds) == 2 else list(range(len(PLACES)))
    things: list[Thing] = []
    for kind, colour, place in zip(kinds, colours, rng.permutation(places), strict=False):
        picture = int(rng.choice(material.by_kind[kind]))
        things.append(Thing(KINDS[kind], list(COLOURS)[colour], *PLACES[place], picture))
    return Scene(tuple(sorted(things, key=lambda thing: (thing.row, thing.column))))


def render(scene: Scene, material: Material, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return the picture of a scene, uint8 [96, 96, 3]: tinted things on a dark, uneven, noisy ground.

    Args:
        scene: what is where.
        material: the pictures of its things.
        rng: draws the ground, and the size, angle, place and shade of each thing.
    """
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / np.float32(SIZE) - np.float32(0.5)
    ground, tilt = rng.uniform(5, 70, 3), rng.uniform(-30, 30, (2, 3))
    frame = ground + rows[..., None] * tilt[0] + columns[..., None] * tilt[1]
    for thing in scene.things:
        cell = np.s_[thing.row * _CELL : (thing.row + 1) * _CELL, thing.column * _CELL : (thing.column + 1) * _CELL]
        ink = _placed(material.pictures[thing.picture], rng)[..., None]
        colour = np.array(COLOURS[thing.colour]) + rng.uniform(-15, 15, 3)
        opaque = np.minimum(1, 2 * ink)
        frame[cell] = (1 - opaque) * frame[cell] + opaque * colour * (0.45 + 0.55 * ink)
    frame += rng.uniform(2, 10) * rng.standard_normal(frame.shape, dtype=np.float32)
    return np.asarray(np.clip(np.rint(frame), 0, 255), np.uint8)


def _placed(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Scale, turn and shift a picture with bilinear sampling; return its ink in 0..1, float32 [48, 48]."""
    scale, angle = rng.uniform(*_SCALE), np.deg2rad(rng.uniform(*_ANGLE))
    free = (_CELL - 28 * scale) / 2
    middle = (_CELL - 1) / 2 + rng.uniform(-free, free, 2)
    rows, columns = np.mgrid[0:_CELL, 0:_CELL].astype(np.float32)
    down, right = (rows - middle[0]) / scale, (columns - middle[1]) / scale
    y = np.clip(np.cos(angle) * down - np.sin(angle) * right + 14.5, 0, 28.999)  # a pixel of padding around it
    x = np.clip(np.sin(angle) * down + np.cos(angle) * right + 14.5, 0, 28.999)
    top, left = y.astype(np.int64), x.astype(np.int64)
    fy, fx = y - top, x - left
    padded = np.pad(picture, 1).astype(np.float32) / np.float32(255)
    upper = padded[top, left] * (1 - fx) + padded[top, left + 1] * fx
    lower = padded[top + 1, left] * (1 - fx) + padded[top + 1, left + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float32)
