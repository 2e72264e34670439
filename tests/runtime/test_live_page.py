"""The listings of docs/live.md do what they say, one after the other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from edgefuse import cli
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.writer import write_bundle
from tests.runtime.second import WRONG, second
from tests.runtime.test_live import digest_of

PAGE = (Path(__file__).parents[2] / "docs" / "live.md").read_text(encoding="utf-8")
LISTINGS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)


def test_the_listings_run_as_they_stand(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_manifest: Manifest,
    tiny_contents: dict[str, bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "home.edgefuse", tiny_manifest, tiny_contents)
    second(tmp_path / "new.edgefuse")
    WRONG["damaged"][0](tmp_path / "broken.edgefuse")
    motion = np.ones((1, 4, 3), np.float32)
    np.save(tmp_path / "motion.npy", motion)
    names = {"motion": motion}
    for kind, listing in LISTINGS:
        if kind == "python":
            exec(compile(listing, "docs/live.md", "exec"), names)
            continue
        for line in listing.splitlines():
            words = shlex.split(line.replace("9f2c...", digest_of(tmp_path / "new.edgefuse")))
            assert words[0] == "edgefuse"
            assert cli.main(words[1:]) == 0, line
    said = capsys.readouterr().out
    assert "the bundle 'broken.edgefuse' is refused: 'stages/image_encoder.dynamic_wi8_af32.onnx' is damaged" in said
    assert re.search(r"^ok: .*new\.edgefuse runs, digest \w{64}$", said, re.MULTILINE)
    assert re.search(r"^ *together +logits ", said, re.MULTILINE)


def test_there_are_nine() -> None:
    assert [kind for kind, _ in LISTINGS] == [*["python"] * 5, "sh", "python", "python", "sh"]
