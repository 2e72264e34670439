"""Which TensorRT is here: NVIDIA's full edition, or TensorRT for RTX, whose Python API is TensorRT 10's."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Final

__all__ = ["VERSION", "trt"]

_FULL: Final = "tensorrt"
_RTX: Final = ("tensorrt_rtx", "tensorrt_rtx_bindings")


def _installed() -> ModuleType:
    """Return the first edition whose libraries are there: the full one, which a Jetson has, before that for RTX."""
    missing = f"No module named '{_FULL}'"
    for name in (_FULL, *_RTX):
        try:
            module = import_module(name)
        except (ImportError, OSError) as error:  # no bindings, or no libraries that they could load
            if not isinstance(error, ModuleNotFoundError):
                missing = str(error)
            continue
        if hasattr(module, "Builder"):
            return module
        missing = "TensorRT's libraries are not installed"  # the folder of type stubs imports as an empty package
    raise ImportError(missing, name=_FULL)


if TYPE_CHECKING:
    import tensorrt as trt
else:
    trt = _installed()

VERSION: Final = trt.__version__ if trt.__name__ == _FULL else f"{trt.__version__} for RTX"
"""The version with its edition: an engine of one edition is none for the other."""
