"""Edits of encoded files of any kind, and what every refusal of one must be."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

_NUMBERS = (0, 1, 2, 7, 8, 255, 256, 65_535, 65_536, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1)


def number(rng: random.Random) -> int:
    """Return an unsigned number of 32 bits that parsers may stumble over."""
    return rng.choice((*_NUMBERS, rng.getrandbits(8), rng.getrandbits(16), rng.getrandbits(32)))


def mutated(rng: random.Random, data: bytes, hot: int = 256) -> tuple[str, bytes]:
    """Return what was done to a file, and the result: bytes and numbers overwritten (the first `hot` of them more
    often than the rest), cut out, put in, or everything behind them cut off.
    """
    changed, what = bytearray(data), []
    near = rng.random() < 0.6
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not changed:
            break
        at = rng.randrange(min(len(changed), rng.choice((16, 64, hot))) if near else len(changed))
        edit = rng.random()
        if edit < 0.35:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            what.append(f"[{at}] = {changed[at]}")
        elif edit < 0.75:
            form = rng.choice(("<I", ">I", "<H", ">H", "<Q", ">Q"))
            value = number(rng) % (1 << (16 if form[1] == "H" else 32))
            changed[at : at + struct.calcsize(form)] = struct.pack(form, value)
            what.append(f"[{at}:] = {form} {value}")
        elif edit < 0.85:
            del changed[at:]
            what.append(f"cut at {at}")
        elif edit < 0.93:
            added = rng.randbytes(rng.randrange(1, 30))
            changed[at:at] = added
            what.append(f"{added.hex()} put in at {at}")
        else:
            size = rng.randrange(1, 64)
            del changed[at : at + size]
            what.append(f"{size} cut out at {at}")
    return ", ".join(what), bytes(changed)


def edited_or_bomb(
    rng: random.Random,
    seeds: Mapping[str, bytes],
    bombs: Iterator[tuple[str, Callable[[], bytes]]],
    edited: Callable[[random.Random, str, bytes], tuple[str, bytes]],
    chance: float,
) -> Iterator[tuple[str, bytes, bool]]:
    """Yield what was done to a file, the result, and whether it is a bomb: each bomb once, among edits without end.

    Args:
        rng: decides.
        seeds: files by name.
        bombs: what each is, and a function that makes it.
        edited: does something to a seed.
        chance: of a bomb before an edit, while there are any.
    """
    names = sorted(seeds)
    while True:
        if rng.random() < chance and (bomb := next(bombs, None)):
            yield bomb[0], bomb[1](), True
        name = rng.choice(names)
        what, data = edited(rng, name, seeds[name])
        yield f"{name}: {what}", data, False


def check_refusal(text: str, named: str) -> None:
    """Check that a refusal is one readable sentence that says of what."""
    assert " object at 0x" not in text, text
    assert named in text, f"{named} is not in: {text}"
    assert text.isprintable(), ascii(text)
    assert len(text) < 1_000, text


@contextmanager
def silence() -> Iterator[None]:
    """Keep off the terminal what libraries in C print while seeds are made."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
