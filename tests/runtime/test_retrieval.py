"""Indexes of embeddings: built, opened, searched, and refused where they are damaged or of another encoder."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgefuse
from edgefuse.errors import InputError, MissingExtraError
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.retrieval import Hit, Index, build
from edgefuse.runtime.retrieval.encoder import encoder_of
from edgefuse.runtime.retrieval.graph import Graph
from edgefuse.runtime.retrieval.index import HEADER_BYTES, RECORD, VECTORS, Record, header
from tests import dual


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dual.bundle(tmp_path_factory.mktemp("dual") / "colours")


@pytest.fixture
def pipeline(bundle: Path) -> Iterator[Pipeline]:
    with edgefuse.load(bundle) as loaded:
        yield loaded


def coloured(name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((8, 8, 3), dual.COLOURS[name], np.uint8)


@pytest.fixture
def index(tmp_path: Path, pipeline: Pipeline) -> Iterator[Index]:
    with build(tmp_path / "index", pipeline, ((n, coloured(n)) for n in dual.COLOURS), modality="image") as made:
        yield made


def written(folder: Path, vectors: np.ndarray[Any, np.dtype[np.float32]], **changed: Any) -> Path:
    """Write an index of any vectors, as somebody else would."""
    rows, size = vectors.shape
    data = header(rows, size) + vectors.tobytes()
    record = Record(
        model="m",
        modality="image",
        rung="r",
        encoder="0" * 64,
        size=size,
        vectors_sha256=hashlib.sha256(data).hexdigest(),
        names=tuple(map(str, range(rows))),
    )
    folder.mkdir(exist_ok=True)
    (folder / VECTORS).write_bytes(data)
    (folder / RECORD).write_bytes(msgspec.json.encode(msgspec.to_builtins(record) | changed))
    return folder


def names(hits: list[Hit]) -> set[str]:
    return {hit.name for hit in hits}


def test_one_modality_alone_gives_its_embedding_alone(pipeline: Pipeline) -> None:
    assert list(pipeline(image=coloured("red")).outputs) == ["shade"]
    told = pipeline(text="red")
    assert list(told.outputs) == ["word"]
    assert told.embedding == pytest.approx([255, 0, 0], abs=0.01)


def test_a_text_finds_the_picture_of_its_colour(index: Index, pipeline: Pipeline) -> None:
    points = [pipeline(text=name).embedding for name in dual.COLOURS]
    found = index.search(points, top=2)
    assert [hits[0].name for hits in found] == list(dual.COLOURS)
    assert [len(hits) for hits in found] == [2] * 5
    assert found[0][0].score == pytest.approx(1, abs=0.01)
    assert len(index.search(points[0], top=99)[0]) == len(index) == 5


def test_vectors_are_an_array_that_numpy_reads(index: Index, tmp_path: Path) -> None:
    vectors = np.load(tmp_path / "index" / VECTORS, allow_pickle=False)
    assert vectors.shape == (5, 3)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5))


def test_an_index_is_replaced_whole_and_nothing_else_is(index: Index, pipeline: Pipeline, tmp_path: Path) -> None:
    with build(tmp_path / "index", pipeline, [("one", coloured("red"))], modality="image") as again:
        assert len(again) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["index"]
    (tmp_path / "index" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match=r"is in the way of the index: got mine.txt, expected an index, an empty"):
        build(tmp_path / "index", pipeline, [("one", coloured("red"))], modality="image")
    assert index.search([1, 0, 0])[0][0].name == "red"  # what is open stays as it was


def test_what_cannot_be_read_is_told_or_ends_it(pipeline: Pipeline, tmp_path: Path) -> None:
    items = [("good", coloured("red")), ("bad", np.zeros(3))]
    left_out: list[str] = []
    with build(tmp_path / "i", pipeline, items, modality="image", failed=lambda name, _: left_out.append(name)) as made:
        assert (made.record.names, left_out) == (("good",), ["bad"])
    with pytest.raises(InputError):
        build(tmp_path / "j", pipeline, items, modality="image")
    with pytest.raises(InputError, match="there is nothing to index: got no item that can be read"):
        build(tmp_path / "j", pipeline, [], modality="image")
    assert not (tmp_path / "j").exists()


def test_names_may_be_paths(pipeline: Pipeline, tmp_path: Path) -> None:
    with build(tmp_path / "i", pipeline, [(Path("a", "b"), coloured("red"))], modality="image") as made:
        assert made.record.names == (str(Path("a", "b")),)


@pytest.mark.parametrize(
    ("items", "modality", "message"),
    [
        ([(3, coloured("red"))], "image", "these are no items of an index: got tuple, expected pairs of a name and"),
        ([("a", "b", "c")], "image", "these are no items of an index: got tuple"),
        (5, "image", "these are no items of an index: got int"),
        ([("one", coloured("red"))], "sound", "the model 'colours' has no such modality: got sound, expected image or"),
        ([("one", coloured("red"))], None, "the model 'colours' has no such modality: got None"),
    ],
)
def test_what_cannot_be_indexed_is_a_sentence(
    pipeline: Pipeline, tmp_path: Path, items: Any, modality: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(tmp_path / "i", pipeline, items, modality=modality)


def test_search_is_exact_over_many_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((9000, 100), np.float32)  # blocks of 2,621
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[8000] = vectors[5]
    queries = rng.standard_normal((7, 100), np.float32)
    queries[0] = vectors[5]
    with Index.open(written(tmp_path / "i", vectors)) as index:
        found = index.search(queries, top=20)
    near = queries.astype(np.float64) @ vectors.T.astype(np.float64) / np.linalg.norm(queries, axis=1, keepdims=True)
    expected = np.argsort(-near, axis=1, kind="stable")[:, :20]
    assert [[int(hit.name) for hit in hits] for hits in found] == expected.tolist()
    assert [hit.name for hit in found[0][:2]] == ["5", "8000"]  # of equals, the first


@pytest.mark.parametrize(
    ("points", "top", "message"),
    [
        ([1.0, 2.0], 3, r"a point does not fit the index: got the shape \[2\], expected \[3\], or \[points, 3\]"),
        (np.empty((0, 3)), 3, r"a point does not fit the index: got the shape \[0, 3\]"),
        ([0.0, 0.0, 0.0], 3, "a point that is looked for has no direction: got the length 0"),
        ([np.nan, 0.0, 0.0], 3, "has no direction: got the length nan, expected finite numbers, not all zero"),
        ([1e300, 1e300, 0.0], 3, "has no direction: got the length inf"),
        (["a", "b", "c"], 3, "a point that is looked for is no array of numbers: got <U1"),
        ([[1.0], [1.0, 2.0]], 3, "a point that is looked for is no array of numbers: got ValueError"),
        ([1j, 0.0, 0.0], 3, "a point that is looked for is no array of numbers: got complex128"),
        ([1.0, 0.0, 0.0], 2.5, "a search needs a positive number of items: got 2.5, expected 1 or more"),
        ([1.0, 0.0, 0.0], None, "a search needs a positive number of items: got None, expected 1 or more"),
        ([1.0, 0.0, 0.0], 0, "a search needs a positive number of items: got 0, expected 1 or more"),
    ],
)
def test_what_cannot_be_searched_is_a_sentence(index: Index, points: Any, top: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        index.search(points, top)


def test_an_index_of_another_rung_or_model_is_refused(index: Index, bundle: Path, tmp_path: Path) -> None:
    index.close()
    with edgefuse.load(bundle, rung="other") as other:
        with pytest.raises(InputError) as caught:
            Index.open(tmp_path / "index", other)
        # Two bundles of one name and rung differ in these alone.
        made, here = index.record.encoder[:12], encoder_of(other.manifest, other.rung, "image").digest[:12]
        assert made != here
        assert str(caught.value) == (
            f"the index '{tmp_path / 'index'}' was made by other files than those that embed 'image' here: "
            f"got those of 'colours' at its rung 'float', {made}, expected those of 'colours' at the rung 'other', "
            f"{here}. Fix: name the rung 'float'."
        )
        foreign = written(tmp_path / "foreign", np.eye(3, dtype=np.float32))
        with pytest.raises(InputError, match="Fix: make it anew with 'edgefuse index'"):
            Index.open(foreign, other)
        nowhere = written(tmp_path / "nowhere", np.eye(3, dtype=np.float32), modality="sound")
        with pytest.raises(InputError, match="than those that embed 'sound' here"):
            Index.open(nowhere, other)


def test_damage_is_told_before_any_search(tmp_path: Path) -> None:
    folder = written(tmp_path / "i", np.eye(4, dtype=np.float32))
    whole = (folder / VECTORS).read_bytes()
    for damaged, message in (
        (whole[:-1], f"vectors.npy of {len(whole) - 1} bytes, expected {len(whole)} for 4 items"),
        (whole + b"\0", f"vectors.npy of {len(whole) + 1} bytes"),
        (whole[:-1] + b"\7", "vectors.npy with SHA-256"),
        (whole.replace(b"False", b"True ", 1), "another header of vectors.npy"),
    ):
        (folder / VECTORS).write_bytes(damaged)
        with pytest.raises(InputError, match=r"the index '.*' is damaged: got ") as caught:
            Index.open(folder)
        assert message in str(caught.value)
    (folder / VECTORS).unlink()
    with pytest.raises(InputError, match=r"is damaged: got vectors.npy: No such file"):
        Index.open(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": ["a"] * 1_000_000}, "expected 256000128 for 1000000 items"),
        ({"size": 1 << 40}, "is damaged: got index.json: ValidationError: Expected `int` <= 65536"),
        ({"names": []}, "Expected `array` of length >= 1"),
        ({"version": 2}, "Expected `int` <= 1"),
        ({"encoder": "no digest"}, "Expected `str` matching regex"),
        ({"pickle": "cos"}, "unknown field `pickle`"),
    ],
)
def test_a_record_that_lies_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    folder = written(tmp_path / "i", np.eye(64, dtype=np.float32), **changed)
    with pytest.raises(InputError) as caught:
        Index.open(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_vector_that_is_no_direction_is_told_when_it_is_met(tmp_path: Path, value: float) -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[2, 2] = value
    with (
        Index.open(written(tmp_path / "i", vectors)) as index,
        pytest.raises(InputError, match="a vector in rows 0 to 3 that is not of length 1"),
    ):
        index.search([1, 1, 1, 1])


def test_a_file_that_is_cut_while_it_is_open_ends_no_process(tmp_path: Path) -> None:
    folder = written(tmp_path / "i", np.eye(4, dtype=np.float32))
    with Index.open(folder) as index:
        with (folder / VECTORS).open("r+b") as file:
            file.truncate(HEADER_BYTES)
        with pytest.raises(InputError, match=r"vectors.npy became shorter"):
            index.search([1, 1, 1, 1])
    with pytest.raises(InputError, match="cannot be read: got ValueError"):
        index.search([1, 1, 1, 1])


def test_there_is_no_index_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no index at '.*': got index.json: No such file"):
        Index.open(tmp_path)


def test_a_graph_finds_the_nearest_with_exact_scores(tmp_path: Path) -> None:
    pytest.importorskip("usearch", reason="not checked: approximate search, for which usearch is not installed")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 32), np.float32)
    vectors = centres[rng.integers(40, size=3000)] + 0.5 * rng.standard_normal((3000, 32), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with Index.open(written(tmp_path / "i", vectors)) as index:
        graph = Graph(index)
        queries = vectors[::100] + np.float32(0.01)
        pairs = list(zip(graph.search(queries), index.search(queries), strict=True))
        assert sum(len(names(near) & names(exact)) for near, exact in pairs) > 0.95 * 300
        assert [near[0].name for near, _ in pairs] == [exact[0].name for _, exact in pairs]
        assert [near[0].score for near, _ in pairs] == pytest.approx([exact[0].score for _, exact in pairs], abs=1e-6)
        with pytest.raises(InputError, match="a point does not fit the index"):
            graph.search([1.0])
        assert len(graph.search(queries[0], top=5000)[0]) == 3000


def test_a_graph_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch", None)
    with (
        Index.open(written(tmp_path / "i", np.eye(4, dtype=np.float32))) as index,
        pytest.raises(MissingExtraError, match=r"approximate search needs .* Fix: pip install 'edgefuse\[search\]'"),
    ):
        Graph(index)
