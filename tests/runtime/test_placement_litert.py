"""What XNNPACK takes of real TFLite files."""

from __future__ import annotations

from pathlib import Path

from edgefuse.bundle.reader import open_bundle
from edgefuse.measure import placement


def test_what_xnnpack_leaves_is_told(tflite_bundle: Path) -> None:
    with open_bundle(tflite_bundle) as bundle:
        found = {one.stage: one for one in placement.measure(bundle)}
    assert found["image_encoder"].mac_share == 1.0
    assert all(one.share is not None and one.operators for one in found.values())
    away = found["text_encoder"].elsewhere  # a lookup and the mask of its length
    assert away
    assert all(words.endswith("(not taken by XNNPACK)") for words in away)
