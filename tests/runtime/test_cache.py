"""The feature cache by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.runtime.cache import FeatureCache, Kept

Array = npt.NDArray[Any]


class Doubler:
    """A session that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.runs += 1
        return {"y": np.multiply(feeds["x"], 2)}


def feed(*numbers: float, dtype: str = "float32") -> dict[str, Array]:
    return {"x": np.array([numbers], dtype)}


def test_the_least_recently_used_input_is_forgotten() -> None:
    cache, session = FeatureCache(entries=2), Doubler()
    cached = cache.attach(session)
    for number in (1, 2, 1, 3, 1, 2):  # 3 pushes 2 out, since 1 was used after it
        assert cached.run(feed(number))["y"][0, 0] == 2 * number
    assert (cache.hits, cache.misses, session.runs) == (2, 4, 4)


def test_sessions_do_not_share_entries_but_counters() -> None:
    cache = FeatureCache()
    a, b = Doubler(), Doubler()
    cached = cache.attach(a)
    cached.run(feed(1))
    cache.attach(b).run(feed(1))
    cached.run(feed(1))
    assert (a.runs, b.runs, cache.hits, cache.misses) == (1, 1, 1, 2)


@pytest.mark.parametrize(
    "other",
    [feed(0.0, -0.0), feed(0, 0, dtype="int32"), {"x": np.zeros((2, 1), np.float32)}, feed(0)],
    ids=["sign of zero", "type", "shape", "size"],
)
def test_equal_looking_inputs_are_told_apart(other: dict[str, Array]) -> None:
    cache, session = FeatureCache(), Doubler()
    cached = cache.attach(session)
    cached.run(feed(0, 0))
    cached.run(other)
    assert session.runs == 2


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 3e38])
def test_what_overflowed_is_not_kept(number: float) -> None:
    cache, session = FeatureCache(entries=1), Doubler()
    cached = cache.attach(session)
    cached.run(feed(1))
    with np.errstate(over="ignore"):
        assert not np.isfinite(cached.run(feed(1, number))["y"]).all()
    cached.run(feed(1))
    assert (session.runs, cache.hits) == (2, 1)  # and what was kept before is still there


def test_nan_among_the_inputs_is_found_again_by_its_bytes() -> None:
    class Counter(Doubler):
        def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
            self.runs += 1
            return {"y": np.zeros(1, np.float32), "mask": np.isnan(feeds["x"])}

    cache, session = FeatureCache(), Counter()
    cached = cache.attach(session)
    cached.run(feed(np.nan))
    cached.run(feed(np.nan))
    assert session.runs == 1


def test_what_is_kept_cannot_be_changed() -> None:
    cached = FeatureCache().attach(Doubler())
    with pytest.raises(ValueError, match="read-only"):
        cached.run(feed(1))["y"][0, 0] = np.float32(5)


def test_no_entries_means_no_cache() -> None:
    cache, session = FeatureCache(entries=0), Doubler()
    assert cache.attach(session) is session


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 4))
def test_a_cache_never_changes_an_answer(numbers: list[int], entries: int) -> None:
    cache, session = FeatureCache(entries=entries), Doubler()
    cached = cache.attach(session)
    assert [cached.run(feed(n))["y"][0, 0] for n in numbers] == [2 * n for n in numbers]
    assert cache.hits + cache.misses == len(numbers)
    assert cache.misses == session.runs


def test_the_size_of_what_is_kept_can_be_asked_for_while_more_is_kept() -> None:
    kept = Kept()
    kept.keys = {"image": 1, "text": 2}

    class Features(dict[str, Array]):
        """As another thread would, in between."""

        def values(self) -> Any:
            kept.keep("text", kept, {})
            return super().values()

    kept.keep("image", kept, Features(feature=np.zeros(2, np.float32)))
    assert kept.size_bytes == 8
