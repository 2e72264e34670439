from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edgefuse.compiler.cache import arrays
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.datasets.cache import open_cache
from edgefuse.errors import CacheError
from tests.attack import entries


def test_ragged_samples_come_back(tmp_path: Path) -> None:
    samples = [
        {"a": np.arange(n, dtype=np.int32).reshape(1, n), "b": np.full((1, 2), n, np.float32)} for n in (3, 0, 5)
    ]
    arrays.write_arrays(tmp_path, samples)
    found = arrays.ArrayStore(tmp_path)
    assert len(found) == 3
    for index, sample in enumerate(samples):
        for key, value in sample.items():
            np.testing.assert_array_equal(found[index][key], value)
            assert found[index][key].dtype == value.dtype
    assert found.stacked("b").shape == (3, 1, 2)
    with pytest.raises(IndexError):
        found[3]


def test_a_type_that_changes_is_not_stored_as_another(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^'a' is float64, and int64 in samples before$"):
        arrays.write_arrays(tmp_path, [{"a": np.array([1])}, {"a": np.array([0.5])}])


def test_samples_are_read_only(tmp_path: Path) -> None:
    arrays.write_arrays(tmp_path, [{"a": np.zeros(4, np.float32)}])
    with pytest.raises(ValueError, match="read-only"):
        arrays.ArrayStore(tmp_path)[0]["a"][0] = 1


def test_what_is_absent_takes_no_space(tmp_path: Path) -> None:
    one, nothing = np.full(1_000_000, 7, np.uint8), np.zeros(1_000_000, np.uint8)
    arrays.write_arrays(tmp_path, [{"a": nothing}, {"a": one}, {"a": nothing}])
    found = arrays.ArrayStore(tmp_path)
    assert [int(found[index]["a"].sum()) for index in range(3)] == [0, 7_000_000, 0]
    status = (tmp_path / "0.bin").stat()
    assert status.st_size == 3_000_000
    if status.st_blocks * 512 >= status.st_size:
        pytest.skip("not checked: this file system keeps no holes")
    assert status.st_blocks * 512 < 1_200_000


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        tracemalloc.start()
        arrays.write_arrays(folder, ({"a": np.ones(50_000, np.float32)} for _ in range(count)))
        total = sum(float(sample["a"].sum()) for sample in map(arrays.ArrayStore(folder).__getitem__, range(count)))
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert total == 50_000 * count
        return found

    assert peak(200) < peak(20) + 100_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.json", b'{"a":{"file":"0.bin","dtype":"|O8","shapes":[[1]]}}'),  # addresses out of a file
        ("index.json", b'{"a":{"file":"0.bin","dtype":"<f5","shapes":[[1]]}}'),
        ("index.json", b'{"a":{"file":"nowhere","dtype":"<f4","shapes":[[1]]}}'),
        ("index.json", b'{"a":'),
        ("index.json", b"\xff"),
        ("0.bin", b"123"),
    ],
)
def test_a_store_that_changed_after_it_was_found_whole_is_one_sentence(
    name: str, content: bytes, tmp_path: Path
) -> None:
    arrays.write_arrays(tmp_path, [{"a": np.ones(4, np.float32)}])
    store = pickle.dumps(arrays.ArrayStore(tmp_path))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        CacheError, match=rf"^{tmp_path} changed while a compile was using it: got '.*Fix: compile again"
    ):
        pickle.loads(store)


def test_a_file_that_changed_after_it_was_found_whole_is_not_used(tmp_path: Path) -> None:
    tools = cast(Any, entries.Tools())
    built = Toolchain(tools, tools, tools, open_cache(tmp_path)).lower(entries.stage())
    built.path.write_bytes(built.path.read_bytes()[:-1] + b"\0")
    for read in (built.read, built.lowered):
        with pytest.raises(CacheError, match=rf"^{built.path} changed while a compile was using it: got SHA-256 \w+, "):
            read()
    built.path.unlink()
    with pytest.raises(CacheError, match="got No such file or directory"):
        built.read()
