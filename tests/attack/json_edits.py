"""Edits of JSON that its author would never make: of one value in it, of its shape, and of its bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any, TypeAlias

Place: TypeAlias = tuple[str | int, ...]

NUMBERS = (
    *(-1, 0, 1, 2, 3, 127, 255, 1023, 1025, 65_535, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63, 2**64),
    *(-(2**31), -(2**63), 10**18, 10**300, 10**4200, -(10**4200), 0.5, -0.0, 1.5, 1e-320, 1e300, -1e300, 3.0),
)
STRINGS = (
    *(
        "",
        " ",
        "x",
        "a.b",
        "../x",
        "/etc/passwd",
        "\0",
        "\x1b[2J\x1b]0;x\x07",
        "a\nb",
        "\u202eabc",
        "ÿ",
        "é\u0301",
        "😀",
    ),
    *("x" * 200, "x" * 10_000, "a/" * 300, "a+" * 3_000, "%s%n", "{}", "NaN", "1e999", "-1", "[UNK]", "present", "con"),
)


def places(value: Any, prefix: Place = ()) -> Iterator[Place]:
    """Yield the place of every value inside another one."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*prefix, key)
        yield from places(inner, (*prefix, key))


def at(value: Any, place: Place) -> Any:
    """Return what is at a place."""
    for key in place:
        value = value[key]
    return value


def odd(rng: random.Random, old: Any) -> Any:
    """Return a value that does not belong where the old one was."""
    if isinstance(old, int | float) and not isinstance(old, bool) and rng.random() < 0.6:
        return rng.choice((*NUMBERS, old + 1, old - 1, -old, old * 2))
    if isinstance(old, str) and rng.random() < 0.6:
        return rng.choice((*STRINGS, old * 2, old.upper(), old + "x", old[:-1], old[::-1]))
    if isinstance(old, list) and rng.random() < 0.7:
        return _odd_list(rng, old)
    if isinstance(old, dict) and rng.random() < 0.7:
        return _odd_object(rng, old)
    return rng.choice((None, True, False, [], {}, [[]], [None], {"x": 1}, *NUMBERS, *STRINGS))


def _odd_list(rng: random.Random, old: list[Any]) -> list[Any]:
    changed = list(old)
    kind = rng.choice(("reverse", "empty", "double", "many", "one less", "one more", "nested", "shuffle"))
    if kind == "many":
        return changed * rng.choice((2, 10, 300, 1_000))
    if kind == "one less" and changed:
        changed.pop(rng.randrange(len(changed)))
    elif kind == "one more":
        changed.insert(rng.randint(0, len(changed)), copy.deepcopy(rng.choice(changed)) if changed else 0)
    elif kind == "shuffle":
        rng.shuffle(changed)
    return {"reverse": changed[::-1], "empty": [], "double": changed * 2, "nested": [changed]}.get(kind, changed)


def _odd_object(rng: random.Random, old: dict[str, Any]) -> dict[str, Any]:
    changed = dict(old)
    kind = rng.choice(("less", "more", "empty", "rename", "swap", "many"))
    if kind == "empty":
        return {}
    if kind == "more":
        changed[rng.choice(STRINGS)] = rng.choice(NUMBERS)
    elif kind == "many":
        changed |= {f"x{index}": index for index in range(rng.choice((3, 2_000)))}
    elif changed:
        key, other = rng.choice(sorted(changed)), rng.choice(sorted(changed))
        if kind == "less":
            del changed[key]
        elif kind == "rename":
            changed[rng.choice((*STRINGS, key + "x"))] = changed.pop(key)
        else:
            changed[key], changed[other] = changed[other], changed[key]
    return changed


def edited(rng: random.Random, value: Any) -> tuple[str, Any]:
    """Return a copy with one to three values that are odd, or grafted from elsewhere, and what was done."""
    changed, notes = copy.deepcopy(value), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        known = list(places(changed))
        if not known:
            break
        # Of long lists and tables only a few entries count, or all edits would be of them.
        place = rng.choice(known) if rng.random() < 0.5 else rng.choice([p for p in known if len(p) <= 3] or known)
        graft = rng.random() < 0.15
        new = copy.deepcopy(at(changed, rng.choice(known))) if graft else odd(rng, at(changed, place))
        at(changed, place[:-1])[place[-1]] = new
        notes.append(f"{'.'.join(map(str, place))[:60]} = {_short(new)}")
    return "; ".join(notes), changed


def _short(value: Any) -> str:
    text = repr(value)[:60] if not isinstance(value, int) or abs(value) < 10**100 else "a huge number"
    return text if text.isprintable() else ascii(text)


def damaged(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Return the text with bytes that are wrong, and what was done."""
    place = rng.randrange(len(data))
    kind = rng.choice(("cut", "flip", "utf-8", "insert", "repeat", "nest", "surrogate", "twice", "mark"))
    key = rng.choice((b'"schema"', b'"model"', b'"type"', b'"name"', b'""'))
    made = {
        "cut": data[:place],
        "flip": data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :],
        "utf-8": data[:place] + rng.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80")) + data[place:],
        "insert": data[:place]
        + rng.choice((b"{", b"}", b"[", b"]", b",", b'"', b"\0", b"NaN", b"-", b"1e999"))
        + data[place:],
        "repeat": data.replace(b"{", b"{" + (key + b": 1, ") * rng.choice((1, 40_000)), 1),
        "nest": rng.choice((b"[", b'{"x":')) * rng.choice((100, 100_000)) + data,
        "surrogate": data.replace(b': "', b': "\\ud800', rng.choice((1, 5))),
        "twice": data + data,
        "mark": rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0")) + data,
    }
    return f"{kind} at {place}", made[kind]


def dumped(value: Any) -> bytes:
    """Return the JSON of an edited value."""
    return json.dumps(value, separators=(",", ":")).encode()
