"""Reading a large manifest costs what its bytes cost, whatever is repeated in it."""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefuse.bundle.codec import decode
from edgefuse.bundle.layout import MAX_MANIFEST_BYTES
from edgefuse.bundle.validation import check
from edgefuse.errors import BundleError

Json = dict[str, Any]
ROOM = MAX_MANIFEST_BYTES // 4  # the attacks take all of it
MOST_PARSES = 200  # what was quadratic took thousands of times what parsing takes


def _repeated(item: object) -> list[Any]:
    """Return a list of equal items that fills a large manifest."""
    return [item] * (ROOM // (len(json.dumps(item)) + 2))


def _named(prefix: str) -> dict[str, str]:
    return {f"{prefix}{index}": "" for index in range(ROOM // (len(prefix) + 14))}


def _states(m: Json) -> None:
    """Add stages of 256 states each that come from their own last run."""
    tensors = [{"name": f"t{index}", "shape": [1]} for index in range(256)]
    count = ROOM // (256 * 190)
    m["stages"] += [
        {
            "name": f"s{stage}",
            "role": "encoder",
            "inputs": [
                {"tensor": t, "source": {"kind": "state", "owner": f"s{stage}", "tensor": t["name"]}} for t in tensors
            ],
            "outputs": [{"tensor": t, "kind": "state"} for t in tensors],
        }
        for stage in range(count)
    ]


CHANGES: list[tuple[str, Callable[[Json], object]]] = [
    ("dimensions of a binding", lambda m: m["candidates"][0]["inputs"][0].update(shape=_repeated(9))),
    ("large dimensions", lambda m: m["candidates"][0]["inputs"][0].update(shape=_repeated(10**4200))),
    ("dimensions of a golden tensor", lambda m: m["golden"][0]["inputs"][0].update(shape=_repeated(9))),
    ("dimensions of a port", lambda m: m["stages"][0]["inputs"][0]["tensor"].update(shape=_repeated(9))),
    (
        "sizes of a dimension",
        lambda m: m["model"]["modalities"][0]["tensors"][0].update(
            shape=[1, {"dim": "bucketed", "sizes": list(range(1, ROOM // 9))}]
        ),
    ),
    ("equal names of candidates", lambda m: m.update(candidates=_repeated(m["candidates"][0]))),
    ("equal rungs", lambda m: m.update(rungs=_repeated(m["rungs"][0]))),
    ("equal stages", lambda m: m.update(stages=_repeated(m["stages"][0]))),
    ("equal modalities", lambda m: m["model"].update(modalities=_repeated(m["model"]["modalities"][0]))),
    ("equal bindings", lambda m: m["candidates"][0].update(inputs=_repeated(m["candidates"][0]["inputs"][0]))),
    ("golden cases", lambda m: m.update(golden=_repeated(m["golden"][0]))),
    ("golden tensors", lambda m: m["golden"][0].update(inputs=_repeated(m["golden"][0]["inputs"][0]))),
    ("figures", lambda m: m["rungs"][0].update(figures=_repeated(m["rungs"][0]["figures"][0]))),
    ("files", lambda m: m.update(files=_repeated(m["files"][0]))),
    ("a path of many segments", lambda m: m["files"][-1].update(path="a/" * (ROOM // 2))),
    ("a subset of many names", lambda m: m["rungs"][0]["accuracy"].update({"image+" * (ROOM // 6): 1})),
    ("many subsets", lambda m: m["rungs"][0].update(accuracy=dict.fromkeys(_named("x"), 1))),
    ("tools", lambda m: m["provenance"].update(tools=_named("x"))),
    ("steps of pruning", lambda m: m["candidates"][0].update(pruning={"steps": _repeated({"method": "", "ratio": 0})})),
    ("choices of a rung", lambda m: m["rungs"][0].update(candidates=_named("x"))),
    ("a long name", lambda m: m["model"].update(name="\x1b" * (ROOM // 6))),
    ("an unknown field", lambda m: m.update({"\U0001f600" * (ROOM // 12): 1})),
    ("an unknown scheme", lambda m: m["candidates"][0].update(scheme="\u202e" * (ROOM // 6))),
    ("wired states", _states),
]


def _cost(text: bytes) -> tuple[float, float, str]:
    """Return the seconds of CPU that bare parsing takes, those of reading, and the refusal if there is one."""
    begin = time.process_time()
    with contextlib.suppress(RecursionError, ValueError):  # nested too deeply, a number of too many digits
        json.loads(text)
    parsed = time.process_time()
    message = ""
    try:
        check(decode(text))
    except BundleError as error:
        message = str(error)
    return parsed - begin, time.process_time() - parsed, message


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=[name for name, _ in CHANGES])
def test_a_long_list(change: Callable[[Json], object], folder: Path) -> None:
    manifest = copy.deepcopy(json.loads((folder / "manifest.json").read_bytes()))
    change(manifest)
    text = json.dumps(manifest).encode()
    assert len(text) > ROOM / 2
    parsing_s, reading_s, message = _cost(text)
    assert 0 < len(message) < 2_000
    assert message.isascii()
    assert message.isprintable()
    assert reading_s < MOST_PARSES * max(parsing_s, 0.01)


@pytest.mark.parametrize(
    "text",
    [
        b'{"schema": [2, 0], ' + b'"target": "x", ' * (ROOM // 15) + b'"backend": "x"}',
        b'{"schema": [2, 0], "tools": {' + b'"": "", ' * (ROOM // 8) + b'"": ""}}',
        b'{"schema": [2, 0], "x": ' + b"[" * (ROOM // 2) + b"]" * (ROOM // 2) + b"}",
        b'{"x": ' * (ROOM // 7) + b"1" + b"}" * (ROOM // 7),
        b'{"schema": [' + b"1, " * (ROOM // 3) + b"1]}",
        b'{"schema": [' + b"9" * 4000 + b", " + b"9" * 4000 + b"]}",
        b'{"schema": [1' + b"0" * ROOM + b", 2]}",
        b'{"schema": [1e' + b"9" * ROOM + b", 2]}",
    ],
    ids=["keys", "keys inside", "arrays", "objects", "long version", "large version", "digits", "exponent"],
)
def test_a_long_text(text: bytes) -> None:
    parsing_s, reading_s, message = _cost(text)
    assert 0 < len(message) < 2_000
    assert reading_s < MOST_PARSES * max(parsing_s, 0.01)


def test_equal_keys_are_named_in_one_short_sentence(folder: Path) -> None:
    text = (folder / "manifest.json").read_bytes()
    many = text.replace(b'"tools": {', b'"tools": {' + b'"x": "", ' * 40_000)
    assert many != text
    with pytest.raises(BundleError, match=r"^manifest\.json has the key 'x' twice in one object\.$"):
        decode(many)
