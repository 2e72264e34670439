"""What lies beside a bundle may be anything; figures are read from a file only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgefuse.errors import MeasureError
from edgefuse.runtime.signals import prepared_path, read_prepared


def test_what_is_no_file_beside_a_bundle_holds_nobody_up(tmp_path: Path) -> None:
    bundle = tmp_path / "a.edgefuse"
    place = prepared_path(bundle)
    os.mkfifo(place)
    with pytest.raises(MeasureError, match=r"the figures in .* cannot be read: got .*it is a named pipe"):
        read_prepared(bundle, "0" * 64)
    place.unlink()
    place.symlink_to("/dev/zero")
    with pytest.raises(MeasureError, match=r"cannot be read: got .*it is a character device"):
        read_prepared(bundle, "0" * 64)
