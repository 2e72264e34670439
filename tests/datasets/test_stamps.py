"""Grouping, dealing, augmenting and reading a Debian package; needs neither network nor package."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.datasets.stamps import augmentation, debian, grouping
from edgefuse.datasets.stamps.augmentation import MILD, STRONG, Augmentation
from edgefuse.datasets.stamps.material import Material, Recording, Stamp
from edgefuse.errors import DataError

ANIMALS, FOOD = 0, 1


def content(stamps: list[Stamp], pictures: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None = None) -> Material:
    """Make material with noise for pictures, unless they are given, and one recording per stamp."""
    if pictures is None:
        pictures = np.random.default_rng(0).integers(0, 256, (len(stamps), 160, 160, 4), dtype=np.uint8)
        pictures[..., 3] = 255
    recordings = tuple(Recording(index, "fr", index * 100, 100) for index in range(len(stamps)))
    return Material(tuple(stamps), recordings, pictures, np.zeros(100 * len(stamps), np.int16), "0" * 64)


def test_stamps_of_one_thing_are_one_group() -> None:
    stamps = [
        Stamp("food/fruit/apple_red.png", FOOD, "A red apple."),
        Stamp("food/fruit/cartoon/core.png", FOOD, "An apple core of a red apple"),
        Stamp("food/fruit/Fuji.png", FOOD, 'A "Fuji" apple, from Japan.'),
        Stamp("food/fruit/apple-bitten.png", FOOD, "Somebody ate from it!"),
        Stamp("food/nuts/walnut.png", FOOD, "A walnut in its shell."),
        Stamp("animals/fish/apple_snail.png", ANIMALS, "A snail."),
    ]
    assert grouping.groups(content(stamps)) == [[0, 2, 3], [1], [4], [5]]


def test_mirrored_and_recoloured_pictures_are_one_group() -> None:
    picture = np.kron(np.random.default_rng(1).integers(0, 200, (16, 16, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    alpha = np.full((160, 160, 1), 255, np.uint8)
    other = np.random.default_rng(2).integers(0, 255, (160, 160, 3)).astype(np.uint8)
    pictures = np.stack([np.concatenate([p, alpha], axis=2) for p in (picture, picture[:, ::-1] // 2 + 40, other)])
    stamps = [Stamp(f"animals/{name}.png", ANIMALS, name) for name in ("dog", "hound", "cat")]
    assert grouping.groups(content(stamps, pictures)) == [[0, 1], [2]]


def test_stamps_of_a_known_thing_are_left_out_whatever_their_category() -> None:
    rng = np.random.default_rng(3)
    pictures = np.kron(rng.integers(0, 200, (5, 16, 16, 4)), np.ones((1, 10, 10, 1))).astype(np.uint8)
    pictures[..., 3] = 255
    known = content([Stamp("food/fruit/apple.png", FOOD, "A fruit."), Stamp("food/x.png", FOOD, "!")], pictures[:2])
    others = [
        Stamp("toys/apple_red.png", 0, "A red toy."),
        Stamp("toys/ball.png", 0, "A ball."),
        Stamp("toys/mirrored.png", 0, "A doll."),
        Stamp("toys/y.png", 0, "?"),
        Stamp("toys/kite.png", 0, "A kite."),
    ]
    seen = np.stack([pictures[2], pictures[3], pictures[0][:, ::-1], pictures[4], pictures[2]])
    assert grouping.unlike(content(others, seen), known) == [1, 3, 4]
    fruit = Stamp("toys/ball.png", 0, "A green fruit in a bowl.")
    assert grouping.unlike(content([fruit], pictures[4:]), known) == []


@given(st.integers(0, 2**32), st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_splits_are_disjoint_complete_and_keep_groups_whole(seed: int, sizes: list[int]) -> None:
    names = [
        "".join(chr(97 + (place // 26**power) % 26) for power in (0, 1, 2)) + "thing" for place in range(len(sizes))
    ]
    stamps = [
        Stamp(f"food/{name}_{n}.png", FOOD, f"{name}.")
        for name, size in zip(names, sizes, strict=True)
        for n in range(size)
    ]
    made = content(stamps, np.zeros((len(stamps), 16, 16, 4), np.uint8))
    dealt = grouping.deal(made, {"train": 0.6, "test": 0.4}, seed)
    assert sorted([*dealt["train"], *dealt["test"]]) == list(range(len(stamps)))
    heads = {split: {stamps[index].caption for index in part} for split, part in dealt.items()}
    assert not heads["train"] & heads["test"]


def test_items_are_drawn_from_the_generator_alone() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (160, 160, 4), dtype=np.uint8)
    pcm = (np.sin(np.arange(20_000) / 5) * 20_000).astype(np.int16)
    stamp = Stamp("town/town_hall.png", 5, "The town hall.")
    for how in (MILD, STRONG):
        drawn = [
            (
                augmentation.place(picture, np.random.default_rng(seed), how).tobytes(),
                augmentation.record(pcm, np.random.default_rng(seed), how).tobytes(),
                augmentation.write(stamp, np.random.default_rng(seed), how),
            )
            for seed in (3, 3, 4)
        ]
        assert drawn[0] == drawn[1]
        assert drawn[0][0] != drawn[2][0]
        assert drawn[0][1] != drawn[2][1]


def test_sound_fills_the_window_and_is_in_range() -> None:
    long = np.full(40_000, 30_000, np.int16)
    for how in (MILD, STRONG):
        sound = augmentation.record(long, np.random.default_rng(0), how)
        assert sound.shape == (32_000,)
        assert sound.dtype == np.float32
        assert float(np.abs(sound).max()) <= 1.0
    short = augmentation.record(np.full(100, 16_384, np.int16), np.random.default_rng(0), Augmentation(gain_db=(0, 0)))
    np.testing.assert_allclose(short[:100], 0.5)
    assert not short[100:].any()


def test_text_is_never_empty_and_may_be_the_name_of_the_file() -> None:
    stamp = Stamp("food/fruit/apple_red_2.png", FOOD, "A red apple.")
    rng = np.random.default_rng(0)
    assert augmentation.write(stamp, rng, Augmentation(dropped_words=1.0)) == "apple."
    assert augmentation.write(stamp, rng, Augmentation(file_names=1.0)) == "apple red"
    nameless = Stamp("symbols/math/4.png", 4, "Four.")
    assert augmentation.write(nameless, rng, Augmentation(file_names=1.0)) == "Four."


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put an apt-get and a dpkg-deb in the way that deliver a tar archive; return its SHA-256."""
    archive = tmp_path / "words.tar"
    with tarfile.open(archive, "w") as tar:
        for name, data in (("./usr/share/a.txt", b"seven"), ("./usr/share/b.png", b"eight")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    programs = tmp_path / "bin"
    programs.mkdir()
    known = f'[ "$3" = words=1.0 ] && exec cp {archive} words_1.0_all.deb'
    scripts = {"apt-get": f'{known}; echo "E: no such package" >&2; exit 100', "dpkg-deb": 'cat "$2"'}
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def test_chosen_files_are_read_out_of_a_package(apt: str) -> None:
    found = debian.members("words", "1.0", apt, lambda name: name.endswith(".txt"))
    assert found == {"usr/share/a.txt": b"seven"}


def test_other_package_is_refused(apt: str) -> None:
    with pytest.raises(DataError, match=r"words 1.0 is not the file it should be: got SHA-256 .*, expected 00.*Fix:"):
        debian.members("words", "1.0", "0" * 64, lambda _: True)


def test_failure_of_apt_is_one_sentence(apt: str) -> None:
    with pytest.raises(
        DataError, match=r"'apt-get download' could not deliver .* none: got exit code 100, 'E: no such"
    ):
        debian.members("none", "1.0", apt, lambda _: True)


def test_missing_apt_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DataError, match=r"words cannot be fetched: got no program 'apt-get', expected a Debian or Ubuntu"
    ):
        debian.members("words", "1.0", "0" * 64, lambda _: True)
