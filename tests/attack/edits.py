"""Edits that no author of a file would make: of objects of TFLite's schema, of protobuf messages, of raw bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
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


def edit_message(source: random.Random, message: Any, names: Sequence[str] = ()) -> str:
    """Change one field somewhere in a protobuf message, and say what was done.

    Args:
        source: of randomness.
        message: changed in place.
        names: that other text fields may be set to (operators, domains).
    """
    inner = list(_messages(message, type(message).__name__))
    path, chosen = source.choice(inner)
    field = source.choice(list(chosen.DESCRIPTOR.fields))
    path = f"{path}.{field.name}"
    if field.is_repeated:
        return f"{path}: {_edit_repeated(source, getattr(chosen, field.name), field, names)}"
    if field.message_type is not None:
        kind = source.choice(("clear", "fill"))
        chosen.ClearField(field.name) if kind == "clear" else getattr(chosen, field.name).SetInParent()
        return f"{path}: {kind}"
    if source.random() < 0.15:
        chosen.ClearField(field.name)
        return f"{path}: clear"
    value = _value(source, getattr(chosen, field.name), field, names)
    setattr(chosen, field.name, value)
    return f"{path} = {value!r:.60}"


def _messages(message: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield a message and all within it."""
    yield path, message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for index, inner in enumerate(value if field.is_repeated else [value]):
                yield from _messages(inner, f"{path}.{field.name}[{index}]")


def _edit_repeated(source: random.Random, values: Any, field: Any, names: Sequence[str]) -> str:
    kind = source.choice(("gone", "twice", "edited", "edited", "edited", "all gone"))
    if not len(values) or (kind == "edited" and field.message_type is None):
        if field.message_type is not None:
            values.add()
            return "added"
        if not len(values):
            values.append(_value(source, _zero(field), field, names))
            return f"added {values[0]!r:.40}"
        place = source.randrange(len(values))
        values[place] = _value(source, values[place], field, names)
        return f"[{place}] = {values[place]!r:.60}"
    place = source.randrange(len(values))
    if kind == "gone":
        del values[place]
    elif kind == "all gone":
        del values[:]
    elif field.message_type is None:
        values.append(values[place])
    else:
        values.add().CopyFrom(values[place])
    return f"[{place}] {kind}"


def _zero(field: Any) -> Any:
    """Return what a scalar field holds before anything is put there."""
    if field.type == field.TYPE_BYTES:
        return b"\0"
    if field.cpp_type == field.CPPTYPE_STRING:
        return ""
    return 0.0 if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE) else 0


def _value(source: random.Random, old: Any, field: Any, names: Sequence[str]) -> Any:
    """Return a value that a scalar field can hold, far from the old one."""
    if isinstance(old, bytes):
        return _shorter_or_longer(source, old)
    if isinstance(old, str):
        return source.choice((*names, "", "x", "\u00e9", old + "_", old[:-1]))
    if isinstance(old, float):
        return real(source, old)
    if field.enum_type is not None:
        return source.choice([value.number for value in field.enum_type.values])
    value = number(source, int(old))
    if field.cpp_type == field.CPPTYPE_INT64:
        return source.choice((value, value, 2**40, 2**62, -(2**63), 2**63 - 1))
    if field.cpp_type == field.CPPTYPE_UINT64:
        return abs(value)
    return max(-(2**31), min(2**31 - 1, value))


def _shorter_or_longer(source: random.Random, old: bytes) -> bytes:
    """Return other bytes: of another length or, of whole integers, with one of them far away."""
    if not old or source.random() < 0.3:
        other: bytes = source.choice((b"", b"\xff\xfe", old[:-1], old + old[:8]))
        return other
    width = source.choice((4, 8)) if len(old) % 8 == 0 else 4 if len(old) % 4 == 0 else 1
    place = source.randrange(len(old) // width) * width
    value = number(source, int.from_bytes(old[place : place + width], "little", signed=True))
    return old[:place] + int(value % (1 << 8 * width)).to_bytes(width, "little") + old[place + width :]
