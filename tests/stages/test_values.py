"""Generated inputs look like what was observed, and hold no sample."""

from __future__ import annotations

import numpy as np
import pytest

from edgefuse.bundle import spec
from edgefuse.stages.examples import chained_feeds, example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import Array, TorchStage
from edgefuse.stages.values import generated, observed, with_values
from tests.stages.tables import Rows, model


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def boxes(count: int) -> list[dict[str, Array]]:
    return [{"b.values": rng().uniform(0.0, 1.0, (1, 5, 4)).astype(np.float32)} for _ in range(count)]


def test_boxes_stay_within_their_range() -> None:
    (values,) = observed(boxes(16))
    made = generated(values, (1, 5, 4), "float32", rng())
    assert made.dtype == np.float32
    assert made.min() >= 0.0
    assert made.max() <= 1.0
    assert np.unique(made).size > 4


def test_ids_and_flags_are_whole_and_within_their_range() -> None:
    samples: list[dict[str, Array]] = [{"i.ids": rng().integers(3, 17, (1, 6), np.int32)} for _ in range(20)]
    samples += [{"f.values": rng().integers(0, 2, (1, 6)).astype(np.float32)} for _ in range(20)]
    ids, flags = observed(samples)
    made = generated(ids, (1, 6), "int32", rng())
    assert made.dtype == np.int32
    assert made.min() >= 3
    assert made.max() < 17
    assert set(np.unique(generated(flags, (1, 6), "float32", rng()))) <= {0.0, 1.0}


def test_a_clip_pans_over_a_picture_and_is_observed_by_its_first_frame() -> None:
    clips: list[dict[str, Array]] = [{"v.frames": np.zeros((1, 4, 16, 24, 3), np.uint8)} for _ in range(9)]
    for number, one in enumerate(clips):
        one["v.frames"][:, 0] = 40 + number
        one["v.frames"][:, 1:] = 255  # not looked at
    (values,) = observed(clips)
    assert values.steps == (4, 4)
    made = generated(values, (1, 4, 16, 24, 3), "uint8", rng())
    assert made.dtype == np.uint8
    assert made.min() >= 40
    assert made.max() <= 48
    for frame in range(3):
        assert np.array_equal(made[0, frame][:, :-1], made[0, frame + 1][:, 1:])
        assert not np.array_equal(made[0, frame], made[0, frame + 1])


def test_columns_of_a_table_keep_their_own_ranges() -> None:
    rows = [{"t.values": np.array([[40.0 + i, i / 100, 1e6 * i]], np.float32)} for i in range(12)]
    (values,) = observed(rows)
    made = generated(values, (1, 3), "float32", rng())[0]
    assert 40 <= made[0] <= 51
    assert 0 <= made[1] <= 0.11


def test_the_corners_of_boxes_stay_in_order() -> None:
    """LiLT and LayoutLM look up the width and the height of each word's box: a negative one is no row of a table."""
    random = rng()
    corners = [random.integers(0, 60, (1, 24, 2, 2), np.int32) for _ in range(10)]
    samples = [{"t.bbox": np.sort(corner, axis=2).reshape(1, 24, 4)} for corner in corners]
    (values,) = observed(samples)
    assert values.ordered == ((0, 2), (1, 3))
    made = np.asarray(generated(values, (3, 24, 4), "int32", rng()), np.int32)
    assert (made[..., 0] <= made[..., 2]).all()
    assert (made[..., 1] <= made[..., 3]).all()
    assert made.min() >= 0
    assert made.max() < 60


def test_columns_that_their_ranges_keep_apart_need_no_order() -> None:
    rows: list[dict[str, Array]] = [
        {"t.values": np.array([[[i, 5 * i % 40, 50 + i]]] * 4, np.float32)} for i in range(40)
    ]
    assert observed(rows)[0].ordered == ()
    assert observed([{"t.values": rng().uniform(0, 1, (1, 64, 9)).cumsum(-1).astype(np.float32)}] * 9)[0].ordered == ()


def test_few_samples_give_one_range_for_all_so_that_no_sample_is_told() -> None:
    (values,) = observed(boxes(1))
    assert len(values.mean) == 1
    assert values.deviation[0] > 0


def test_a_picture_has_patches_within_the_range() -> None:
    pictures: list[dict[str, Array]] = [{"p.pixels": np.full((1, 32, 32, 3), grey, np.uint8)} for grey in (20, 200)]
    (values,) = observed(pictures)
    made = generated(values, (1, 32, 32, 3), "uint8", rng()).astype(int)
    assert made.min() >= 20
    assert made.max() <= 200
    assert np.abs(np.diff(made[0, :8, :8, 0])).max() < 40 < np.ptp(made)


@pytest.fixture
def stages() -> tuple[TorchStage, ...]:
    samples: list[dict[str, Array]] = [
        {"rows.values": rng().uniform(0, 1, (1, steps, 3)).astype(np.float32)} for steps in (2, 3, 9)
    ]
    return with_values(split(model(Rows())), observed(samples))


def test_sizes_reach_from_the_largest_to_the_smallest_that_was_seen(stages: tuple[TorchStage, ...]) -> None:
    feeds = list(example_feeds(stages[0], count=5))
    sizes = [one["values"].shape[1] for one in feeds]
    assert sizes[0] == 12
    assert min(sizes) == 2
    assert len(set(sizes)) == 4
    assert [int(one["length"][0]) for one in feeds] == sizes
    assert all(one["values"].min() >= 0 and one["values"].max() <= 1 for one in feeds)


def test_masks_are_those_that_a_model_admits(stages: tuple[TorchStage, ...]) -> None:
    masks = [(1.0,)]
    assert all(one["fusion"]["present"].tolist() == [[1.0]] for one in chained_feeds(stages, count=4, masks=masks))


def test_padding_behind_a_length_is_zero() -> None:
    fixed = split(model(Rows(), spec.tensor("rows", shape=(1, 12, 3), length=True)))
    for feeds in example_feeds(fixed[0], count=4):
        assert not feeds["values"][:, int(feeds["length"][0]) :].any()
