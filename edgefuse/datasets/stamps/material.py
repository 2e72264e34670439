"""The stamps of Tux Paint: pictures, captions and spoken names, read once out of a Debian package.

The package is under GPL-2: it is fetched and unpacked into the cache folder, nothing of it is in this repository.
Kept are the stamps of six folders (the categories with at least 35 stamps that have a PNG picture, an English caption
and a spoken name). Letters (`symbols/alphabets`) are left out: a hundred drawings of twenty-six things. Those of the
other folders are read apart, for what needs no categories.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped]
import soxr
from PIL import Image

from edgefuse.datasets.cache import Cache, cache_folder
from edgefuse.datasets.stamps import debian
from edgefuse.errors import DataError

CATEGORIES = ("animals", "food", "plants", "seasonal", "symbols", "town")
OTHERS = (
    *("clothes", "hobbies", "household", "medical", "military"),
    *("naturalforces", "people", "space", "sports", "vehicles"),
)
SIZE = 160
SAMPLE_RATE_HZ = 16_000
MAX_SAMPLES = 2 * SAMPLE_RATE_HZ

_PACKAGE = "tuxpaint-stamps-default"
_VERSION = "2022.06.04-1"
_SHA256 = "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
_FOLDER = "usr/share/tuxpaint/stamps/"
_LEFT_OUT = "symbols/alphabets/"
_REVISION = 1  # raised whenever the code below changes what it makes of the package
_RECORDING = re.compile(r"(?P<stem>.+)_desc(?:_(?P<language>[a-z]{2}))?\.ogg")


@dataclass(frozen=True)
class Stamp:
    """One drawing or photograph.

    Attributes:
        path: of the picture, under the package's folder of stamps.
        category: an index into the folders that were read.
        caption: the English caption.
    """

    path: str
    category: int
    caption: str


@dataclass(frozen=True)
class Recording:
    """One person saying what a stamp shows.

    Attributes:
        stamp: the index of the stamp.
        language: two letters.
        start: the place of its first sample in `Material.pcm`.
        samples: how many it has.
    """

    stamp: int
    language: str
    start: int
    samples: int


@dataclass(frozen=True)
class Material:
    """The clean content of the data set.

    Attributes:
        stamps: in the order of their paths.
        recordings: in the order of stamps, then languages.
        pictures: uint8 [stamps, SIZE, SIZE, 4], red, green, blue and alpha, filling the frame; mapped from a file.
        pcm: int16 [samples] at 16 kHz, all recordings one after the other; mapped from a file.
        digest: SHA-256 of all of it.
    """

    stamps: tuple[Stamp, ...]
    recordings: tuple[Recording, ...]
    pictures: npt.NDArray[np.uint8]
    pcm: npt.NDArray[np.int16]
    digest: str


@lru_cache(maxsize=2)
def material(folders: tuple[str, ...] = CATEGORIES) -> Material:
    """Return the stamps of some folders, from the cache folder where they are there; else 161 MB are fetched.

    Raises:
        DataError: the package cannot be fetched, or holds something unexpected.
    """
    key = [_SHA256, _REVISION, *(() if folders == CATEGORIES else folders)]
    folder = Cache(cache_folder()).entry("stamps", key, lambda made: _make(made, folders))
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return Material(
        stamps=tuple(Stamp(**fields) for fields in index["stamps"]),
        recordings=tuple(Recording(**fields) for fields in index["recordings"]),
        pictures=np.load(folder / "pictures.npy", mmap_mode="r", allow_pickle=False),
        pcm=np.load(folder / "pcm.npy", mmap_mode="r", allow_pickle=False),
        digest=index["digest"],
    )


def _make(folder: Path, folders: tuple[str, ...]) -> None:
    """Unpack, decode and write everything."""
    files = debian.members(_PACKAGE, _VERSION, _SHA256, lambda name: _wanted(name, folders))
    content = {name.removeprefix(_FOLDER): data for name, data in files.items()}
    stamps, recordings, pictures, pcm = _read(content, folders)
    index = {
        "stamps": [asdict(stamp) for stamp in stamps],
        "recordings": [asdict(recording) for recording in recordings],
    }
    digest = hashlib.sha256(json.dumps(index, sort_keys=True).encode())
    digest.update(pictures.tobytes())
    digest.update(pcm.tobytes())
    for name, array in (("pictures.npy", pictures), ("pcm.npy", pcm)):
        data = io.BytesIO()  # to a file, numpy does not say why it could not write
        np.save(data, array, allow_pickle=False)
        (folder / name).write_bytes(data.getbuffer())
    text = json.dumps({**index, "digest": digest.hexdigest()})
    (folder / "index.json").write_text(text, encoding="utf-8")


def _wanted(name: str, folders: tuple[str, ...]) -> bool:
    path = name.removeprefix(_FOLDER)
    in_folder = path != name and path.split("/")[0] in folders and not path.startswith(_LEFT_OUT)
    return in_folder and path.endswith((".png", ".txt", ".ogg"))


def _read(
    content: Mapping[str, bytes], folders: tuple[str, ...]
) -> tuple[list[Stamp], list[Recording], npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
    """Return what `Material` holds; a picture without caption or recording is left out."""
    spoken: dict[str, dict[str, bytes]] = {}
    for path, data in content.items():
        match = _RECORDING.fullmatch(path)
        if match:
            spoken.setdefault(match["stem"], {})[match["language"] or "en"] = data
    stamps: list[Stamp] = []
    recordings: list[Recording] = []
    pictures: list[npt.NDArray[np.uint8]] = []
    clips: list[npt.NDArray[np.int16]] = []
    end = 0
    for path in sorted(path for path in content if path.endswith(".png")):
        stem = path.removesuffix(".png")
        if stem + ".txt" not in content or stem not in spoken:
            continue
        category = folders.index(PurePosixPath(path).parts[0])
        stamps.append(Stamp(path, category, _caption(content[stem + ".txt"])))
        pictures.append(_picture(content[path]))
        for language, data in sorted(spoken[stem].items()):
            clip = _clip(data, f"{stem} in '{language}'")
            recordings.append(Recording(len(stamps) - 1, language, end, clip.size))
            clips.append(clip)
            end += clip.size
    return stamps, recordings, np.stack(pictures), np.concatenate(clips)


def _caption(data: bytes) -> str:
    """Return the first line, the English caption, with plain quotation marks and dashes."""
    line = data.decode("utf-8", errors="replace").splitlines()[0].strip()
    plain = line.translate(str.maketrans("“”‘’—", "\"\"''-"))
    return re.sub(r"\s+", " ", plain)


def _picture(data: bytes) -> npt.NDArray[np.uint8]:
    """Crop a picture to what is not transparent and fit it into the middle of the frame, uint8 [SIZE, SIZE, 4]."""
    with Image.open(io.BytesIO(data)) as file:
        image = file.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    scale = SIZE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    # Premultiplied alpha, so that the colour behind transparent pixels does not bleed in.
    image = image.convert("RGBa").resize(
        (width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    )
    frame = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
    frame.paste(image.convert("RGBA"), ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(frame, dtype=np.uint8)


def _clip(data: bytes, what: str) -> npt.NDArray[np.int16]:
    """Decode to mono at 16 kHz, cut silence at both ends and what exceeds two seconds, scale the peak to 0.9."""
    try:
        sound, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise DataError(f"the recording of {what} cannot be decoded", got=str(error).rstrip(".")) from error
    pcm = soxr.resample(sound.mean(axis=1), rate_hz, SAMPLE_RATE_HZ)
    peak = float(np.abs(pcm).max(initial=0.0))
    loud = np.flatnonzero(np.abs(pcm) > 0.02 * peak)
    if loud.size == 0:
        raise DataError(f"the recording of {what} is silent")
    pcm = pcm[max(0, loud[0] - 400) : loud[-1] + 401][:MAX_SAMPLES] * (0.9 / peak)
    return np.asarray(np.clip(np.rint(pcm * 32767), -32768, 32767), dtype=np.int16)
