"""Edits that no author of a file would make: of objects of TFLite's schema, of protobuf messages, of raw bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

_NUMBERS = (
    -(2**31),
    -(2**31) + 1,
    -129,
    -2,
    -1,
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    2**30,
    2**31 - 1,
)
_FLOATS = (0.0, -1.0, 1e-45, 1e-30, 1e-12, 1.0, 1e12, 3e38, float("inf"), float("-inf"), float("nan"))
_BYTES = (b"", b"x", b"\xff\xfe", b"a\x00b", b"main", b"args_0", b"\xc3\xa9" * 40)


def number(source: random.Random, old: int) -> int:
    """Return a number near the old one, or at the end of a range."""
    near = (old - 1, old + 1, old * 2, -old, old // 2, old + 100)
    return source.choice(near if source.random() < 0.4 else _NUMBERS)


def real(source: random.Random, old: float) -> float:
    """Return a float that is far from the old one, or is none."""
    return source.choice((*_FLOATS, -old, old * 1e6, old / 1e6))


def edit_bytes(source: random.Random, data: bytes) -> tuple[str, bytes]:
    """Return what was done to the bytes of a file, and the bytes."""
    changed = bytearray(data)
    place = source.randrange(len(data))
    word = place & ~3
    kind = source.choice(("flip", "byte", "word", "word", "word", "cut", "double", "swap"))
    if kind == "flip":
        changed[place] ^= 1 << source.randrange(8)
    elif kind == "byte":
        changed[place] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
    elif kind == "word":
        old = int.from_bytes(changed[word : word + 4], "little")
        value = source.choice((*_NUMBERS, old + 1, old - 1, old + 4, old - 4, old * 2, source.randrange(len(data))))
        changed[word : word + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
    elif kind == "cut":
        del changed[place:]
    elif kind == "double":
        changed[word:word] = changed[word : word + 4 * source.randint(1, 16)]
    else:
        other = source.randrange(len(data)) & ~3
        changed[word : word + 4], changed[other : other + 4] = changed[other : other + 4], changed[word : word + 4]
    return f"{kind} at byte {place}", bytes(changed)


def _places(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any, Any]]:
    """Yield every place in a tree of the schema's objects: its path, what holds it, and the key or index there."""
    if depth > 12:
        return
    if hasattr(value, "__dict__"):
        for key, inner in vars(value).items():
            yield f"{path}.{key}", value, key
            yield from _places(inner, f"{path}.{key}", depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield f"{path}[{index}]", value, index
            yield from _places(inner, f"{path}[{index}]", depth + 1)


def edit_object(source: random.Random, model: Any) -> str:
    """Change one place in a tree of the schema's objects, and say what was done."""
    path, holder, key = source.choice(list(_places(model)))
    inside = isinstance(holder, list)
    old = holder[key] if inside else getattr(holder, key)
    if inside and source.random() < 0.4:
        return f"{path}: {_edit_list(source, holder, key)}"
    new = _edited(source, old)
    if inside:
        holder[key] = new
    else:
        setattr(holder, key, new)
    return f"{path} = {str(new)[:60]}"


def _edit_list(source: random.Random, holder: list[Any], index: int) -> str:
    kind = source.choice(("gone", "twice", "swapped", "another"))
    if kind == "gone":
        del holder[index]
    elif kind == "twice":
        holder.insert(source.randrange(len(holder) + 1), holder[index])
    else:
        other = source.randrange(len(holder))
        if kind == "swapped":
            holder[index], holder[other] = holder[other], holder[index]
        else:
            holder[index] = holder[other]
    return kind


def _edited(source: random.Random, old: Any) -> Any:
    """Return something in place of a value: mostly of its type."""
    if isinstance(old, bool | np.bool_):
        return not old
    if isinstance(old, int | np.integer):
        return number(source, int(old))
    if isinstance(old, float | np.floating):
        return real(source, float(old))
    if isinstance(old, bytes):
        return source.choice(_BYTES)
    if isinstance(old, np.ndarray) and old.size:
        return _edited_array(source, old)
    if isinstance(old, list):
        return source.choice((None, [], old + old[:1], old[:-1], old[::-1]))
    return source.choice((None, None, 0, 1, b"x")) if not hasattr(old, "__dict__") else None


def _edited_array(source: random.Random, old: Any) -> Any:
    kind = source.choice(("element", "element", "element", "shorter", "longer", "empty", "none", "turned"))
    if kind == "element":
        new, place = old.copy(), source.randrange(old.size)
        whole = old.dtype.kind in "iu"
        value = number(source, int(old[place])) if whole else real(source, float(old[place]))
        with np.errstate(over="ignore"):
            new[place] = np.array(value).astype(old.dtype)
        return new
    changed = {
        "shorter": old[:-1],
        "longer": np.concatenate([old, old[:1]]),
        "empty": old[:0],
        "none": None,
        "turned": old[::-1].copy(),
    }
    return changed[kind]
