"""Raw input for the tiny model, and small media files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgefuse.runtime.pipeline import Pipeline

Array = npt.NDArray[Any]


@pytest.fixture
def tiny_raw() -> dict[str, Any]:
    """Raw input for all three modalities."""
    rng = np.random.default_rng(3)
    return {
        "image": rng.integers(0, 256, (8, 8), dtype=np.uint8),
        "text": "please stop now",
        "motion": rng.normal(size=(1, 3, 3)).astype(np.float32),
    }


@pytest.fixture
def load_tiny(tiny_bundle: Path) -> Callable[..., Pipeline]:
    """Open the tiny bundle; takes the keywords of `edgefuse.load`."""
    import edgefuse

    return lambda **options: edgefuse.load(tiny_bundle, **options)


@pytest.fixture(scope="session")
def encode_png() -> Callable[..., bytes]:
    """Encode an array (or a Pillow image) as the bytes of a picture file."""
    from PIL import Image

    def encode(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def encode_wav() -> Callable[..., bytes]:
    """Encode samples [n] or [n, channels] as the bytes of a sound file."""
    import soundfile  # type: ignore[import-untyped]

    def encode(samples: Array, rate_hz: int = 16_000, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
        return buffer.getvalue()

    return encode
