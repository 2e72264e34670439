"""A caller's mistakes are sentences of ours, whatever Python would say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import edgefuse
from edgefuse.bundle.reader import open_bundle
from edgefuse.errors import BundleError, InputError


@pytest.mark.parametrize("path", [None, 5, b"a", "", "a\0b", "\ud800"])
def test_what_is_no_path_is_no_bundle(path: Any) -> None:
    with pytest.raises(BundleError, match=r"no such bundle|cannot be read"):
        edgefuse.load(path)


@pytest.mark.parametrize("rung", ["", [], 5, "no such"])
def test_only_none_is_the_default_rung(rung: Any, tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="this bundle has no such rung"):
        edgefuse.load(tiny_bundle, rung=rung)
    with edgefuse.load(tiny_bundle) as pipeline, pytest.raises(BundleError, match="this bundle has no such rung"):
        pipeline.at(rung)


def test_a_digest_is_pinned_in_either_case_of_letters(tiny_bundle: Path) -> None:
    with open_bundle(tiny_bundle) as bundle:
        digest = bundle.digest
        for given in (digest, digest.upper()):
            edgefuse.load(bundle, digest=given).close()
            edgefuse.load(tiny_bundle, digest=given).close()
        for wrong in ("", 5, digest[:-1]):
            with pytest.raises(BundleError, match="pinned"):
                edgefuse.load(bundle, digest=wrong)  # type: ignore[arg-type]
            with pytest.raises(BundleError, match="pinned"):
                edgefuse.load(tiny_bundle, digest=wrong)  # type: ignore[arg-type]


def test_what_is_no_input_is_told(tiny_bundle: Path) -> None:
    with edgefuse.load(tiny_bundle) as pipeline:
        odd: Any = pipeline
        for items in (None, 3):
            with pytest.raises(InputError, match="a batch is no list of items"):
                odd.batch(items)
        with pytest.raises(InputError, match="these are no inputs: got NoneType"):
            odd.infer(None)
        with pytest.raises(InputError, match="this model has no modality 'self'"):
            odd(**{"self": 1})
        with pytest.raises(InputError, match="item 0: this model has no modality 'self'"):
            odd.batch([{"self": 1}])
