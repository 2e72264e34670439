"""What a path or bytes may be, before anybody decodes them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse.bundle.spec import audio, image
from edgefuse.errors import InputError
from edgefuse.runtime.preprocess import Preprocessor, audio_file, image_file
from edgefuse.runtime.preprocess.array_file import read_array

Read = Callable[[Any], object]


def read_image(raw: Any) -> object:
    return Preprocessor(image("camera", height=8, width=6), lambda name: b"")(raw)


def read_audio(raw: Any) -> object:
    return Preprocessor(audio("mic", sample_rate_hz=16_000, samples=160), lambda name: b"")(raw)


def read_npy(raw: Any) -> object:
    return read_array(raw, "motion")


everywhere = pytest.mark.parametrize("read", [read_image, read_audio, read_npy])


def special(folder: Path) -> dict[str, Path]:
    """Return paths that lead to no regular file, by what messages call it."""
    os.mkfifo(folder / "pipe")
    (folder / "to-pipe").symlink_to("pipe")
    (folder / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    return {
        "a named pipe": folder / "to-pipe",
        "a socket": folder / "socket",
        "a character device": folder / "zero.png",
        "Is a directory": folder,
    }


@everywhere
@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a character device", "Is a directory"])
def test_only_regular_files_are_opened(read: Read, kind: str, tmp_path: Path) -> None:
    path = special(tmp_path)[kind]
    with pytest.raises(InputError) as caught:
        read(path)
    assert path.name in str(caught.value)
    assert f"({kind}), expected the path of a readable file" in str(caught.value)


@everywhere
def test_a_pipe_that_takes_the_place_of_a_file_holds_nobody_up(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"x")
    looked = Path.stat

    def replaced(self: Path, **options: Any) -> os.stat_result:
        status = looked(self, **options)
        path.unlink()
        os.mkfifo(path)
        return status

    monkeypatch.setattr(Path, "stat", replaced)
    with pytest.raises(InputError, match=r"a\.npy' \(a named pipe\)"):
        read(path)


@everywhere
def test_a_folder_that_takes_the_place_of_a_file_leaks_no_descriptor(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"x")
    file = path.stat()
    path.unlink()
    path.mkdir()
    monkeypatch.setattr(Path, "stat", lambda self, **options: file)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(InputError, match=r"a\.npy' \(Is a directory\)"):
        read(path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before  # what tests before left may be closed meanwhile


@everywhere
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone", r"got 'gone' \(No such file or directory\)"),
        ("a\0b", r"got 'a\\x00b' \(.*null"),
        ("x" * 5_000, r"got '\.\.\.x{80,}' \(File name too long\)"),
        ("\x1b[31m\n", r"got '\\x1b\[31m\\n' \(No such file"),
        (os.fsdecode(b"\xff.png"), r"got '\\udcff\.png' \(No such file"),
        ("", "cannot be read|is empty"),
        ("/proc/self/maps", "is empty: got 0 bytes in '/proc/self/maps'"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(read: Read, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).isprintable()


@everywhere
def test_a_link_to_itself_is_one_sentence(read: Read, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"loop' \(Too many levels of symbolic links\)"):
        read(tmp_path / "loop")


class Odd:
    """What says that it is a path, and is none."""

    def __init__(self, name: Any) -> None:
        self.name = name

    def __fspath__(self) -> Any:
        return self.name


@everywhere
def test_paths_of_other_kinds(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    for given in (Odd(str(path)), Odd(os.fsencode(path))):
        with pytest.raises(InputError, match=r"is empty: got 0 bytes in '.*empty'"):
            read(given)
    with pytest.raises(InputError, match="cannot be read: got 'Odd'"):
        read(Odd(3))


@pytest.mark.parametrize("read", [read_image, read_audio])
def test_a_memory_view_that_was_released_is_one_sentence(read: Read) -> None:
    view = memoryview(b"RIFF")
    view.release()
    with pytest.raises(InputError, match="cannot be read: got operation forbidden on released memoryview"):
        read(view)


@pytest.mark.parametrize("read", [read_image, read_audio])
@pytest.mark.parametrize("given", ["path", "bytes"])
def test_a_size_is_bounded_before_anything_is_read(
    read: Read, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (image_file, audio_file):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 99)
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(100))
    with pytest.raises(InputError, match=r"is too large: got 100 bytes.*, expected at most 99 bytes"):
        read(path if given == "path" else bytes(100))


def test_a_file_that_is_huge_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.npy"
    path.touch()
    os.truncate(path, 1 << 40)
    for read in (read_image, read_audio, read_npy):
        with pytest.raises(InputError, match=r"too large: got 1099511627776 bytes in '.*huge\.npy'"):
            read(path)


def test_threads_read_side_by_side(encode_png: Callable[..., bytes]) -> None:
    data = encode_png(np.zeros((64, 64, 3), np.uint8))
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                read_image(data)
        except BaseException as error:  # noqa: BLE001 - to be seen by the test
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
