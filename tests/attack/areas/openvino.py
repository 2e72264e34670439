"""The hostile ONNX files again, for the other runtime that opens such files."""

from __future__ import annotations

from functools import partial

from edgefuse.runtime.backends.openvino.backend import OpenvinoBackend
from tests.attack.areas import onnx
from tests.attack.attempt import Area

AREA = Area(
    name="openvino",
    attempts=partial(onnx.attempts, backend=OpenvinoBackend),
    tries=1000,
    short=60,
    least=(("edit", 600),),
)
