"""The real pictures in scenes are those of the record, and no two splits share one; needs packages (40 MB)."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from edgefuse.datasets.scenes import SPLITS, load_captions, load_questions
from edgefuse.datasets.scenes.material import SHARES, Material, material
from edgefuse.datasets.scenes.names import DIGITS, KINDS
from edgefuse.errors import DataError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def parts() -> dict[str, Material]:
    try:
        return {split: material(split, SHARES, 26) for split in SPLITS}
    except DataError as error:
        pytest.skip(f"not checked: the pictures of things in scenes: {error}")


def test_splits_share_no_picture(parts: dict[str, Material]) -> None:
    found = {split: {picture.tobytes() for picture in part.pictures} for split, part in parts.items()}
    for one, other in combinations(SPLITS, 2):
        assert not found[one] & found[other]


def test_every_kind_has_its_share(parts: dict[str, Material]) -> None:
    for place, (split, part) in enumerate(parts.items()):
        counts = [SHARES.digits[place]] * len(DIGITS) + [SHARES.clothes[place]] * (len(KINDS) - len(DIGITS))
        assert np.bincount(part.kinds).tolist() == counts, split


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(("name", "load"), [("vqa", load_questions), ("captioning", load_captions)])
def test_data_are_those_of_the_record(name: str, load: type) -> None:
    record = json.loads((EXAMPLES / name / "training.json").read_text())
    assert load().digest == record["data"]["digest"]
