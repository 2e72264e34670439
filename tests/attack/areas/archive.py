"""Bundles damaged in both containers: bytes, headers, names, links. Each is refused, or equal to the untouched one."""

from __future__ import annotations

import functools
import io
import os
import random
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from edgefuse.bundle.layout import MAX_FILES
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from tests import tiny
from tests.attack.attempt import Area, Attempt

_NAMES = (
    *("../outside", "/tmp/outside", "C:/x", "a\\b", "stages/", "stages//x", "./x", ".hidden", "stages/x.", "nul"),
    *("AUX.txt", "é.bin", "cafe\u0301", "x" * 201, "a/" * 9 + "b", "x\ny", "x\0y", "", "manifest.json/x", "stages"),
    *("MANIFEST.JSON", "stages/../manifest.json", "assets/\x1b[2J", "assets/more.txt", "report.json", "notes.txt"),
    *("\\\\server\\share", "~/x"),
)
_WORDS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
Edit = Callable[[random.Random, bytes], bytes]


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield damaged archives and folders, in turn."""
    write_bundle(folder / "tiny", tiny.manifest(), tiny.contents())
    write_bundle(folder / "tiny.edgefuse", tiny.manifest(), tiny.contents())
    (folder / "secret").write_text("of somebody else")
    data = (folder / "tiny.edgefuse").read_bytes()
    yield Attempt("archive untouched", functools.partial(check_archive, folder, data, taken=True))
    yield Attempt("folder untouched", functools.partial(check_folder, folder, random.Random(0), (), taken=True))
    shutil.copytree(folder / "tiny", folder / "full")
    for index in range(MAX_FILES):
        os.mknod(folder / "full" / "assets" / str(index))
    yield Attempt("folder: too many files", functools.partial(_check_equal, folder / "full", taken=False))
    edits: tuple[Edit, ...] = (flip, word, header, cut, moved, members, members)
    while True:
        for edit in edits:
            changed = edit(rng, data)
            places = (place for place, (a, b) in enumerate(zip(data, changed, strict=False)) if a != b)
            first = next(places, min(len(data), len(changed)))
            what = f"archive: {edit.__name__}, from byte {first}, of {len(changed)}"
            yield Attempt(what, functools.partial(check_archive, folder, changed))
        names = tuple(rng.sample(sorted(FOLDER_EDITS), k=rng.choice((1, 1, 2))))
        # A generator of its own, since the edits are made in the child.
        own = random.Random(rng.random())
        yield Attempt(f"folder: {', '.join(names)}", functools.partial(check_folder, folder, own, names))


def flip(rng: random.Random, data: bytes) -> bytes:
    """Flip one bit, or a few."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 8))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def word(rng: random.Random, data: bytes) -> bytes:
    """Set two or four bytes of the directory, or of anything."""
    begin = data.index(_CENTRAL) if rng.random() < 0.7 else 0
    place, size = rng.randrange(begin, len(data) - 4), rng.choice((2, 4))
    value = rng.choice((*_WORDS, len(data), place)) & (1 << 8 * size) - 1
    return data[:place] + value.to_bytes(size, "little") + data[place + size :]


def header(rng: random.Random, data: bytes) -> bytes:
    """Set a field of a local header, of its entry in the directory, or of both alike."""
    count = data.count(_CENTRAL)
    chosen = rng.randrange(count)
    field, size = rng.choice(((4, 2), (6, 2), (8, 2), (10, 2), (12, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)))
    value = rng.choice((*_WORDS, 8, 1 << 11, 1 << 3)) & (1 << 8 * size) - 1
    changed = bytearray(data)
    for signature, shift in rng.choice((((_LOCAL, 0),), ((_CENTRAL, 2),), ((_LOCAL, 0), (_CENTRAL, 2)))):
        place = [index for index in range(len(data)) if data.startswith(signature, index)][chosen] + field + shift
        changed[place : place + size] = value.to_bytes(size, "little")
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    """Cut the file, or put something before it, into it or behind it."""
    place = rng.choice((0, 1, 4, len(data) - 1, len(data) - 22, data.index(_CENTRAL), rng.randrange(len(data))))
    more = rng.choice((b"\0", b"PK", data[-22:], data, bytes(1 << 20), _LOCAL + bytes(26)))
    return rng.choice((data[:place], data[place:], data[:place] + more + data[place:], data + more, more + data))


def moved(rng: random.Random, data: bytes) -> bytes:
    """Let the end record, or an entry of the directory, say other counts, sizes or places."""
    end, directory = len(data) - 22, data.index(_CENTRAL)
    changed = bytearray(data)
    if rng.random() < 0.5:
        field, form = rng.choice(((4, "<H"), (6, "<H"), (8, "<H"), (10, "<H"), (12, "<L"), (16, "<L"), (20, "<H")))
        (old,) = struct.unpack_from(form, data, end + field)
        limit = 0xFFFF if form == "<H" else 0xFFFFFFFF
        struct.pack_into(form, changed, end + field, rng.choice((*_WORDS, old + 1, max(old - 1, 0), old + 46)) & limit)
    else:
        entries = [index for index in range(directory, end) if data.startswith(_CENTRAL, index)]
        one, other = rng.choice(entries), rng.choice(entries)
        offset = rng.choice((data[other + 42 : other + 46], rng.choice(_WORDS).to_bytes(4, "little")))
        kind = rng.choice((0o120777, 0o40755, 0o10644, 0o60644, 0)) << 16
        changed[one + 42 : one + 46] = offset
        if rng.random() < 0.3:
            changed[one + 38 : one + 42] = kind.to_bytes(4, "little")
    return bytes(changed)


def members(rng: random.Random, data: bytes) -> bytes:
    """Write the archive again with another tool: names, orders, compression, links, folders, comments."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    names = list(files)
    made: list[tuple[str, bytes]] = [(name, files[name]) for name in names]
    kind = rng.choice(("name", "rename", "twin", "less", "order", "case", "swap", "contents", "nothing", "folder"))
    chosen = rng.randrange(len(made))
    other = rng.choice(names)
    if kind == "name":
        made.insert(chosen, (rng.choice(_NAMES), rng.choice((b"", b"x", files[other]))))
    elif kind == "rename":
        made[chosen] = (rng.choice(_NAMES), made[chosen][1])
    elif kind == "twin":
        made.insert(rng.randrange(len(made)), (made[chosen][0], rng.choice((b"x", made[chosen][1]))))
    elif kind == "less":
        del made[chosen]
    elif kind == "order":
        rng.shuffle(made)
    elif kind == "case":
        made.append((made[chosen][0].upper(), made[chosen][1]))
    elif kind == "swap":
        made[chosen] = (made[chosen][0], files[other])
    elif kind == "contents":
        made[chosen] = (made[chosen][0], flip(rng, made[chosen][1] or b"x"))
    elif kind == "folder":
        made.append((made[chosen][0].split("/")[0] + "/", b""))
    return _zipped(rng, made)


def _zipped(rng: random.Random, made: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    plain = rng.random() < 0.5
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that appear twice
        for name, contents in made:
            info = zipfile.ZipInfo(name.replace("\0", "\1"), (1980 + rng.randrange(2) * 40, 1, 1, 0, 0, 0))
            info.filename = name
            odd = not plain and rng.random() < 0.1
            info.external_attr = (rng.choice((0o120777, 0o40755, 0o10644)) if odd else 0o100644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED if not plain and rng.random() < 0.05 else zipfile.ZIP_STORED
            info.extra = b"\x99\x99\x02\x00ab" if not plain and rng.random() < 0.05 else b""
            archive.writestr(info, contents)
        archive.comment = b"x" if not plain and rng.random() < 0.1 else b""
    return buffer.getvalue()


def _any_file(rng: random.Random, root: Path) -> Path:
    return rng.choice(sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()))


def _linked(rng: random.Random, root: Path) -> None:
    path = _any_file(rng, root)
    aside = path.with_name("moved")
    target = rng.choice((root.parent / "secret", aside, Path("manifest.json"), Path("/dev/zero"), path))
    path.rename(aside) if target == aside else path.unlink()
    path.symlink_to(target)


def _linked_folder(rng: random.Random, root: Path) -> None:
    path, aside = root / rng.choice(("stages", "assets", "golden")), _aside(root)
    path.rename(aside)
    path.symlink_to(rng.choice((aside, root)))  # other edits may write through it: to nothing but our own


def _aside(root: Path) -> Path:
    return root.with_name(f"{root.name}.aside")


def _odd_name(rng: random.Random, root: Path) -> None:
    name = rng.choice([name for name in _NAMES if name and "\0" not in name and not name.startswith(("/", "..", "~"))])
    path = root / name
    if len(name) < 255 and not path.parent.is_file() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x") if rng.random() < 0.7 else path.mkdir()


def _many(rng: random.Random, root: Path) -> None:
    for index in range(30):
        os.mknod(root / f"assets/{index}")


def _deep(rng: random.Random, root: Path) -> None:
    (root / "/".join(["d"] * rng.choice((7, 9, 200)))).mkdir(parents=True)


def _special(rng: random.Random, root: Path) -> None:
    path = rng.choice((_any_file(rng, root), root / "assets" / "more"))
    path.unlink(missing_ok=True)
    os.mkfifo(path) if rng.random() < 0.7 else path.mkdir()


def _changed(rng: random.Random, root: Path) -> None:
    path = _any_file(rng, root)
    data = path.read_bytes() or b"x"
    path.unlink()  # it is a hard link
    path.write_bytes(rng.choice((data[:-1], data + b"x", b"", flip(rng, data), data[::-1], data)))


def _sparse(rng: random.Random, root: Path) -> None:
    path = _any_file(rng, root)
    path.unlink()
    path.touch()
    os.truncate(path, rng.choice((2**31, 2**40)))


def _gone(rng: random.Random, root: Path) -> None:
    _any_file(rng, root).unlink()


def _hard_link(rng: random.Random, root: Path) -> None:
    os.link(_any_file(rng, root), root / "assets" / "twin")


FOLDER_EDITS: Mapping[str, Callable[[random.Random, Path], None]] = {
    **{"a link": _linked, "a linked folder": _linked_folder, "an odd name": _odd_name, "many files": _many},
    **{"deep folders": _deep, "a pipe or folder": _special, "other contents": _changed, "a sparse file": _sparse},
    **{"a file less": _gone, "a hard link": _hard_link},
}


def check_archive(folder: Path, data: bytes, *, taken: bool = False) -> None:
    """Open an archive: refused, or equal in every file."""
    path = folder / f"{os.getpid()}.edgefuse"
    try:
        path.write_bytes(data)
        _check_equal(path, taken)
    finally:
        path.unlink(missing_ok=True)


def check_folder(folder: Path, rng: random.Random, names: tuple[str, ...], *, taken: bool = False) -> None:
    """Edit a copy of the folder and open it: refused, or equal in every file."""
    path = folder / f"{os.getpid()}"
    try:
        shutil.copytree(folder / "tiny", path, copy_function=os.link)
        for name in names:
            FOLDER_EDITS[name](rng, path)
        _check_equal(path, taken)
    finally:
        for each in (path, _aside(path)):
            shutil.rmtree(each, ignore_errors=True)


def _check_equal(path: Path, taken: bool) -> None:
    before = sorted(path.parent.iterdir())
    expected = {file.path: file.sha256 for file in open_bundle(path.parent / "tiny").manifest.files}
    try:
        with open_bundle(path) as bundle:
            bundle.verify()
            assert {file.path: file.sha256 for file in bundle.manifest.files} == expected, "another manifest"
            for name in expected:
                assert bundle.read(name) == (path.parent / "tiny" / name).read_bytes(), f"other contents of {name}"
    finally:
        assert sorted(path.parent.iterdir()) == before, "reading left or removed something"
    assert taken or not (path.parent / "outside").exists()


AREA = Area("archive", attempts, tries=2_000, short=100, max_rss_bytes=1 << 30)
