"""TFLite files are walked before LiteRT sees them: ours all pass, and damage is one sentence."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.bundle.tflite import flatbuffer, refuse_unsafe_tflite
from edgefuse.errors import BundleError
from tests.attack.tflite_builder import pack, unpack
from tests.bundle.tflite_edits import (
    SEEDS,
    edited,
    main,
    operator,
)


@pytest.mark.parametrize("name", SEEDS)
def test_whole_files_pass(name: str) -> None:
    refuse_unsafe_tflite("a.tflite", SEEDS[name])


@pytest.mark.parametrize("start", [0, 2, 100])
def test_loops_count_from_and_by_what_stands_in_the_file(start: int) -> None:
    def edit(model: Any) -> None:
        tensor = main(model).tensors[operator(model, "WHILE").inputs[0]]
        model.buffers.append(schema.BufferT(data=np.frombuffer(np.int32(start).tobytes(), np.uint8)))
        tensor.buffer = len(model.buffers) - 1

    refuse_unsafe_tflite("a.tflite", edited("recurrent", edit))


def test_constants_behind_the_flatbuffer_pass_and_are_bounded() -> None:
    """The form of files beyond 2 GB: buffers say where in the file their values lie."""
    model = unpack(SEEDS["float net"])
    tail = b""
    for buffer in model.buffers[2:]:
        buffer.offset, buffer.size, tail = len(tail), len(buffer.data), tail + buffer.data.tobytes().ljust(1024, b"\0")
        buffer.data = None
    front = pack(model)
    begin = -(-len(front) // 16) * 16
    for buffer in model.buffers[2:]:
        buffer.offset += begin
    data = pack(model).ljust(begin, b"\0") + tail
    refuse_unsafe_tflite("a.tflite", data)
    with pytest.raises(BundleError, match=r"has a buffer of \d+ bytes at byte"):
        refuse_unsafe_tflite("a.tflite", data[:-1024])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "does not begin as a file of the kind TFL3 does"),
        (b"\x08\0\0\0TFL4" + bytes(20), "does not begin as a file of the kind TFL3 does"),
        (b"\xff\xff\xff\xffTFL3" + bytes(20), "is malformed: the offset at byte 0 leads to byte 4294967295 of 28"),
        (b"\0\0\0\0TFL3" + bytes(20), "is malformed: the offset at byte 0 leads to byte 0"),
        (b"\x08\0\0\0TFL3" + struct.pack("<i", -1000) + bytes(20), "has its fields listed at byte 1008"),
        (b"\x08\0\0\0TFL3" + struct.pack("<i", 8) + bytes(20), "does not lie within the file"),
    ],
)
def test_a_malformed_file_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        refuse_unsafe_tflite("a.tflite", data)


def test_offsets_that_all_name_one_thing_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatbuffer, "MAX_READS", 50)
    with pytest.raises(BundleError, match="has more than 50 tables"):
        refuse_unsafe_tflite("a.tflite", SEEDS["moves"])


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_input_does_anything_else(data: bytes) -> None:
    with suppress(BundleError):
        refuse_unsafe_tflite("a.tflite", b"\x08\0\0\0TFL3" + data)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(SEEDS)), data=st.data())
def test_no_damage_does_anything_else(name: str, data: st.DataObject) -> None:
    whole = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BundleError):
        refuse_unsafe_tflite("a.tflite", bytes(whole))
