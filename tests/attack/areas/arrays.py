"""Arrays out of damaged files, of every type and layout, and of values that overflow inside a model."""

from __future__ import annotations

import io
import os
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

import edgefuse
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import InputError
from edgefuse.runtime.cache import CachedSession
from edgefuse.runtime.pipeline import Inputs
from edgefuse.runtime.preprocess.array_file import read_array
from tests import overflow
from tests.attack import encoded
from tests.attack.attempt import Area, Attempt

Array = npt.NDArray[Any]
_SHAPE = (1, 4, 3)
_EXTREMES = (3e38, -3e38, 1e30, -1e19, 1e-45, -1e-38, 0.0, -0.0, 1.0, float("nan"), float("inf"), float("-inf"))
_HEADER_SHAPES = (
    *("(99999999999999,)", "(2**60,)", "(-1,)", "(1, -4, 3)", "[1, 4, 3]", "(True,)", "(1.5,)", "(1 2)", "()", "(3)"),
    *("(4294967296, 4294967296)", "(0, 99999999999999999999)", "(" + "1," * 40 + ")", "(" + "9" * 5_000 + ",)"),
)
_HEADER_TYPES = (
    *("'|O'", "'<f4'", "'<f4,<f4'", "'(3,)<f4'", "'|V2147483647'", "'<U99999999'", "[('a', '<f4')]", "'<f3'"),
    *("'float32'", "None", "'O'", "'<M8[s]'", "1", "'" + "(" * 200 + "'"),
)


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield damaged files, odd arrays and extreme values, in turn."""
    for kind in overflow.OUTPUTS:
        write_bundle(folder / kind, *overflow.bundle(kind))
    odd = iter(sorted(odd_arrays()))
    while True:
        what, data = npy(rng)
        yield Attempt(what, lambda data=data: check_file(folder, data))  # type: ignore[misc]
        what, data = npy(rng)
        yield Attempt(what, lambda data=data: check_file(folder, data))  # type: ignore[misc]
        if name := next(odd, None):
            yield Attempt(name, lambda name=name: check_odd(folder, name))  # type: ignore[misc]
        kind, values = rng.choice(sorted(overflow.OUTPUTS)), extreme(rng)
        given = f"{values.ravel()[:6]} for {kind}"
        yield Attempt(given, lambda kind=kind, values=values: check_values(folder / kind, values))  # type: ignore[misc]


def npy(rng: random.Random) -> tuple[str, bytes]:
    """Return a `.npy` file, edited, and what was done to it."""
    buffer = io.BytesIO()
    kinds = ("<f4", ">f4", "<f8", "|u1", "<i4", "<i8", "|b1", "<c8", "<f2", "<M8[s]", "<U3", "|S4")
    shape = rng.choice((_SHAPE, (), (0,), (5,), (2, 0, 3), (1, 1, 1, 1, 1, 1)))
    values = np.zeros(shape, np.dtype(rng.choice(kinds)))
    values = np.asfortranarray(values) if rng.random() < 0.3 else values
    np.lib.format.write_array(buffer, values, version=rng.choice(((1, 0), (2, 0), (3, 0))))
    data = buffer.getvalue()
    choice = rng.random()
    if choice < 0.4:
        return _header_edit(rng, data)
    if choice < 0.5:
        return _other_file(rng, data)
    return encoded.mutated(rng, data)


def _header_edit(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Return the file with another header, whose length is right."""
    width = 2 if data[6] == 1 else 4
    size = int.from_bytes(data[8 : 8 + width], "little")
    shape, descr = rng.choice(_HEADER_SHAPES), rng.choice(_HEADER_TYPES)
    order = rng.choice(("True", "False", "None", "1", "'yes'"))
    header = rng.choice(
        (
            f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}",
            f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}",
            f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1, 4, 3), }}",
            "__import__('os').abort()",
            "(" * rng.choice((90, 900, 9_000)),
            "-" * 9_000 + "1",
            "{'descr': '\\d', 'fortran_order': False, 'shape': (3,)}",
            "{" * 5_000,
            "{'shape': (1, 4, 3), 'descr': '<f4', 'fortran_order': False, 'more': {1: 2}}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1L, 4L, 3L), }",
            "\0" * 100,
            "",
        )
    )
    body = header.encode() + b"\n"
    return header[:150], data[:8] + len(body).to_bytes(width, "little") + body + data[8 + width + size :]


def _other_file(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Return what is no `.npy` file at all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("values.npy", data + bytes(rng.choice((0, 50 << 20))))
    pickled = b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    objects = io.BytesIO()
    np.save(objects, np.array([{}, []], object), allow_pickle=True)
    return rng.choice(
        (
            ("an archive", buffer.getvalue()),
            ("an archive, damaged", encoded.mutated(rng, buffer.getvalue())[1]),
            ("a pickle", pickled),
            ("an array of objects", objects.getvalue()),
            ("nothing", b""),
            ("a header without end", data[:8] + struct.pack("<H", 65_535) + b" " * 65_535),
            ("text", b"1 2 3\n"),
        )
    )


def check_file(folder: Path, data: bytes) -> None:
    """Read a file; what is taken must be what NumPy reads."""
    path = folder / f"{os.getpid()}.npy"
    path.write_bytes(data)
    try:
        values = read_array(path, "motion")
    except InputError as error:
        encoded.check_refusal(str(error), path.name)
        raise
    try:
        expected = np.load(path, allow_pickle=False)
    except (ValueError, SyntaxError, TypeError, TokenError):  # NumPy is stricter about what else the header says
        assert values.size * values.itemsize <= len(data), "more than there is"
        assert values.dtype.kind in "biufc", values.dtype
        return
    assert values.dtype == expected.dtype, values.dtype
    assert values.shape == expected.shape, values.shape
    assert values.tobytes() == expected.tobytes(), "other values than NumPy's"


def odd_arrays() -> dict[str, Callable[[], Any]]:
    """Return what is no plain array, by name: made where it is used, since some takes libraries or memory."""
    plain = np.random.default_rng(0).normal(size=_SHAPE).astype(np.float32)

    class Meant(np.ndarray):
        """A subclass, of which there are many."""

    def strided() -> Array:
        wide = np.zeros((1, 8, 6), np.float32)
        wide[:, ::2, ::2] = plain
        return wide[:, ::2, ::2]

    def misaligned() -> Array:
        raw = bytearray(1 + plain.nbytes)
        raw[1:] = plain.tobytes()
        return np.frombuffer(raw, np.float32, plain.size, 1).reshape(_SHAPE)

    same: dict[str, Callable[[], Any]] = {
        "same: every second": strided,
        "same: backwards": lambda: np.ascontiguousarray(plain[:, ::-1, ::-1])[:, ::-1, ::-1],
        "same: in Fortran's order": lambda: np.asfortranarray(plain),
        "same: misaligned": misaligned,
        "same: read-only": lambda: np.frombuffer(plain.tobytes(), np.float32).reshape(_SHAPE),
        "same: of a subclass": lambda: plain.view(Meant),
        "same: in a mapping": lambda: {"values": plain},
    }
    wrong: dict[str, Callable[[], Any]] = {
        "masked": lambda: np.ma.masked_less(plain, 0),
        "a matrix": lambda: np.asmatrix(plain[0]),
        "a record": lambda: np.recarray(_SHAPE, dtype=[("a", "f4")]),
        "a huge record": lambda: np.zeros(_SHAPE, [("a" * 50_000, "f4")]),
        "swapped": lambda: plain.astype(">f4"),
        "of objects": lambda: plain.astype(object),
        "of dates": lambda: np.zeros(_SHAPE, "M8[s]"),
        "complex": lambda: plain.astype(np.complex64),
        "of text": lambda: plain.astype("U9"),
        "of half precision": lambda: plain.astype(np.float16),
        "a scalar": lambda: np.float32(1),
        "of no dimension": lambda: np.array(1, np.float32),
        "of no size": lambda: np.zeros((1, 0, 3), np.float32),
        "of 32 dimensions": lambda: np.zeros((1,) * 32, np.float32),
        "of 2⁶⁰ equal numbers": lambda: np.broadcast_to(np.float32(1), (1, 1 << 58, 3)),
        "too long": lambda: np.zeros((1, 6, 3), np.float32),
        "a list": plain.tolist,
        "a list in itself": _endless,
        "an empty mapping": lambda: {},
        "a mapping with other keys": lambda: {1: plain, "values": plain, None: plain},
        "a memory view": lambda: memoryview(plain.tobytes()),
        "bytes": plain.tobytes,
        "a path": lambda: "/etc/hostname",
        "a number": lambda: 10**5_000,
        "a type": lambda: np.ndarray,
    }
    return same | wrong


def _endless() -> list[Any]:
    given: list[Any] = []
    given.append(given)
    return given


def check_odd(folder: Path, name: str) -> None:
    """Predict from something odd; what is the same array in another layout must give the same answer."""
    made = odd_arrays()
    with edgefuse.load(folder / "classes") as pipeline:
        answer = pipeline(motion=made[name]()).outputs["logits"]
        expected = pipeline(motion=np.ascontiguousarray(made["same: read-only"]())).outputs["logits"]
    assert name.startswith("same"), f"{name} was taken"
    assert np.array_equal(answer, expected), "another answer"


def extreme(rng: random.Random) -> Array:
    """Return values of which some are hard to bear."""
    numbers = [rng.choice(_EXTREMES[: rng.choice((2, 9, 12))]) for _ in range(12)]
    return np.array(numbers, np.float32).reshape(_SHAPE)


def check_values(bundle: Path, values: Array) -> None:
    """Predict from extreme values: refused, marked, or finite in every view."""
    with edgefuse.load(bundle) as pipeline:
        if np.isfinite(values).all():
            prediction = pipeline(motion=values)
        else:  # the second half of a call takes what it is given
            _check_refused(pipeline, values)
            length = np.array([4], np.int32)
            inputs = Inputs({"motion.values": values, "motion.length": length}, ("motion",))
            prediction = edgefuse.Prediction(pipeline.infer(inputs), pipeline.manifest.model.outputs)
        assert pipeline._opened is not None
        sessions = [session for session in pipeline._opened._sessions.values() if isinstance(session, CachedSession)]
        kept = [outputs for session in sessions for _, outputs in session.kept]
    assert all(np.isfinite(value).all() for outputs in kept for value in outputs.values()), "the cache keeps it"
    seen: list[float] = []
    for view in ("label", "score", "scores", "values", "embedding"):
        try:
            given = getattr(prediction, view)
        except InputError:
            continue
        assert prediction.finite, f"{view} of what is not finite"
        seen += given.values() if isinstance(given, dict) else [] if view == "label" else np.ravel(given).tolist()
    assert np.isfinite(seen).all(), seen
    assert bool(seen) == prediction.finite


def _check_refused(pipeline: edgefuse.Pipeline, values: Array) -> None:
    try:
        pipeline(motion=values)
    except InputError:
        return
    raise AssertionError("NaN was taken")


AREA = Area("arrays", attempts, tries=700, short=60, max_rss_bytes=1 << 30)
