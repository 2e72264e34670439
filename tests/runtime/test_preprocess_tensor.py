"""Arrays as they are, after a check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgefuse.bundle.spec import Bounded, Bucketed, Modality, TensorPreprocess, TensorSpec, tensor
from edgefuse.errors import InputError
from edgefuse.runtime.preprocess import Preprocessor


def reader(*shape: Any, dtype: Any = "float32", length: bool = False) -> Preprocessor:
    return Preprocessor(tensor("pose", shape=shape, dtype=dtype, length=length), lambda name: b"")


def ones(*shape: int, dtype: str = "float32") -> Any:
    return np.ones(shape, dtype)


def test_a_fixed_array_is_passed_on() -> None:
    values = ones(1, 3)
    assert reader(1, 3)(values) == {"pose.values": values}


def test_a_bounded_array_keeps_its_steps() -> None:
    tensors = reader(1, Bounded(max=5), 3, length=True)(ones(1, 2, 3))
    assert tensors["pose.values"].shape == (1, 2, 3)
    assert tensors["pose.length"].tolist() == [2]


@pytest.mark.parametrize(("dim", "filled"), [(5, 5), (Bucketed(sizes=(1, 4, 8)), 4)])
def test_what_has_a_length_is_filled_up(dim: Any, filled: int) -> None:
    tensors = reader(1, dim, 3, length=True)(ones(1, 2, 3))
    assert tensors["pose.values"].shape == (1, filled, 3)
    assert tensors["pose.values"].sum() == 6
    assert tensors["pose.length"].tolist() == [2]


def test_several_tensors_come_as_a_mapping() -> None:
    tensors = (TensorSpec(name="x", shape=(1, 2)), TensorSpec(name="kind", dtype="int32", shape=(1,)))
    both = Preprocessor(Modality(name="pose", tensors=tensors, preprocess=TensorPreprocess()), lambda name: b"")
    assert list(both({"kind": ones(1, dtype="int32"), "x": ones(1, 2)})) == ["pose.x", "pose.kind"]
    with pytest.raises(InputError, match="the arrays of 'pose' do not match its tensors: got x, expected x, kind"):
        both({"x": ones(1, 2)})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (ones(1, 2, 3, dtype="float64"), "'pose.values' has the wrong type: got float64, expected an array of float32"),
        ([[1.0]], r"has the wrong type: got list.* Fix: convert it with numpy\.asarray\(values, 'float32'\)"),
        (ones(1, 6, 3), r"has the wrong shape: got \[1, 6, 3\], expected \[1, 1\.\.5, 3\]"),
        (ones(1, 0, 3), r"has the wrong shape: got \[1, 0, 3\]"),
        (ones(1, 2, 4), "has the wrong shape"),
        (ones(2, 2, 3), "has the wrong shape"),
        (ones(2, 3), r"wrong shape: got \[2, 3\].* Fix: mind the batch dimension, which comes first"),
        (np.array([[[1, np.nan, np.inf]]], np.float32), "not finite: got 2 of 3 NaN or infinite, expected finite"),
    ],
)
def test_what_does_not_fit_is_refused(raw: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reader(1, Bounded(max=5), 3, length=True)(raw)


def test_a_fixed_array_without_length_is_not_filled_up() -> None:
    with pytest.raises(InputError, match=r"got \[1, 2\], expected \[1, 3\]"):
        reader(1, 3)(ones(1, 2))


def test_a_mapping_of_other_keys_is_refused() -> None:
    for given in ({1: ones(1, 3), "values": ones(1, 3)}, {None: ones(1, 3)}, {}):
        with pytest.raises(InputError, match=r"the arrays of 'pose' do not match its tensors: got .*, expected values"):
            reader(1, 3)(given)


def test_a_masked_array_is_refused_and_a_subclass_becomes_plain() -> None:
    with pytest.raises(InputError) as caught:
        reader(1, 3)(np.ma.masked_less(ones(1, 3), 2))
    assert str(caught.value) == (
        "'pose.values' is a masked array: got values that are masked out, expected an array. Fix: use .filled(0)."
    )

    class Meant(np.ndarray):
        """A subclass."""

    values = ones(1, 3).view(Meant)
    found = reader(1, 3)(values)["pose.values"]
    assert type(found) is np.ndarray
    assert np.shares_memory(found, values)


@pytest.mark.parametrize(
    "values",
    [
        ones(1, 3).astype(">f4"),
        ones(1, 3).astype(object),
        ones(1, 3).astype("U3"),
        np.zeros((1, 3), "M8[s]"),
        np.zeros((1, 3), [("a" * 9_999, "f4")]),
        np.float32(1),
        memoryview(bytes(12)),
        10**5_000,
        "pose.npy",
        type,
    ],
    ids=range(10),
)
def test_what_is_no_array_of_the_type_is_one_sentence(values: Any) -> None:
    with pytest.raises(
        InputError, match=r"'pose\.values' has the wrong type: got .*, expected an array of float32"
    ) as caught:
        reader(1, 3)(values)
    assert len(str(caught.value)) < 500


def test_a_shape_beyond_memory_is_refused_before_its_values_are_looked_at() -> None:
    endless = np.broadcast_to(np.float32(1), (1, 1 << 58, 3))
    with pytest.raises(InputError, match="has the wrong shape"):
        reader(1, Bounded(max=5), 3)(endless)
