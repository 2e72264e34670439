"""A candidate's tensors have the types and sizes of its stage's ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from edgefuse.bundle.manifest import Binding, Manifest
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BundleError


@pytest.fixture
def rebound(
    tmp_path: Path, tiny_manifest: Manifest, tiny_contents: Mapping[str, bytes]
) -> Callable[[str, Binding], None]:
    """Write the tiny bundle with another binding in place of that of the same port of a candidate."""

    def write(candidate_id: str, other: Binding) -> None:
        def exchanged(bindings: tuple[Binding, ...]) -> tuple[Binding, ...]:
            return tuple(other if binding.port == other.port else binding for binding in bindings)

        candidates = tuple(
            msgspec.structs.replace(each, inputs=exchanged(each.inputs), outputs=exchanged(each.outputs))
            if each.id == candidate_id
            else each
            for each in tiny_manifest.candidates
        )
        write_bundle(tmp_path / "bundle", msgspec.structs.replace(tiny_manifest, candidates=candidates), tiny_contents)

    return write


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float32", (1, 99)), ("float32", (3,)), ("float32", (1, -1)), ("int32", (1, 3))]
)
def test_an_output_that_does_not_fit_its_port_is_refused(
    dtype: str, shape: tuple[int, ...], rebound: Callable[[str, Binding], None]
) -> None:
    other = Binding(port="logits", tensor="logits", dtype=dtype, shape=shape)  # type: ignore[arg-type]
    with pytest.raises(BundleError) as caught:
        rebound("fusion.float", other)
    assert str(caught.value).endswith(
        f"the outputs of the candidate 'fusion.float' do not fit the port 'logits': got {dtype} {list(shape)}, "
        "expected float32 [1, 3] (-1 for what may vary)."
    )


@pytest.mark.parametrize("size", [-1, 5])
def test_what_may_vary_is_open_or_fixed_at_the_largest(size: int, rebound: Callable[[str, Binding], None]) -> None:
    rebound("motion_encoder.float", Binding(port="values", tensor="values", dtype="float32", shape=(1, size, 3)))


def test_any_other_size_of_what_may_vary_is_refused(rebound: Callable[[str, Binding], None]) -> None:
    other = Binding(port="values", tensor="values", dtype="float32", shape=(1, 4, 3))
    with pytest.raises(BundleError, match=r"got float32 \[1, 4, 3\], expected float32 \[1, <=5, 3\]"):
        rebound("motion_encoder.float", other)
