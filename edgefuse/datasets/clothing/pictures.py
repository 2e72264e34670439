"""Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv:1708.07747), out of a Debian package: 70,000 real pictures under MIT."""

from __future__ import annotations

import gzip
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.stamps import debian
from edgefuse.errors import DataError

PACKAGE = "dataset-fashion-mnist"
VERSION = "0.0~git20200523.55506a9-1"
SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
_FOLDER = "usr/share/datasets/fashion-mnist/"
_IMAGES, _LABELS = 0x803, 0x801  # unsigned bytes in three dimensions, and in one


@dataclass(frozen=True)
class Pictures:
    """One of the two parts that the authors made.

    Attributes:
        pictures: uint8 [N, 28, 28], the clothes light on black.
        labels: int64 [N], 0 to 9.
    """

    pictures: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def fetch() -> tuple[Pictures, Pictures]:
    """Download the package (31 MB) and return its 60,000 pictures for training and its 10,000 for testing.

    Raises:
        DataError: the package cannot be fetched, or holds something unexpected.
    """
    files = debian.members(PACKAGE, VERSION, SHA256, lambda name: name.startswith(_FOLDER))
    content = {name.removeprefix(_FOLDER): gzip.decompress(data) for name, data in files.items()}
    return _part(content, "train"), _part(content, "t10k")


def _part(content: dict[str, bytes], name: str) -> Pictures:
    pictures = read(content[f"{name}-images-idx3-ubyte.gz"], _IMAGES)
    labels = read(content[f"{name}-labels-idx1-ubyte.gz"], _LABELS)
    return Pictures(pictures, labels.astype(np.int64))


def read(data: bytes, magic: int) -> npt.NDArray[np.uint8]:
    """Read an array of bytes in the format IDX of the MNIST database.

    Args:
        data: of the file.
        magic: the number that it begins with: its type and how many dimensions it has.

    Raises:
        DataError: the file is of another kind, or has another size than it says.
    """
    head = np.frombuffer(data, ">i4", min(len(data) // 4, 1 + magic % 256))
    shape = tuple(head[1:].tolist())
    values = np.frombuffer(data, np.uint8, offset=4 * head.size)
    if not head.size or head[0] != magic or len(shape) != magic % 256 or values.size != np.prod(shape, dtype=np.int64):
        raise DataError(
            "a file of pictures or labels is not in the format IDX that it should have",
            got=f"{len(data)} bytes that begin with {data[:4].hex()}",
            expected=f"a file that begins with {magic:08x}",
        )
    return values.reshape(shape)
