"""The modules of this package that travel to a device, as installed here, with their entry points."""

from __future__ import annotations

import io
import zipfile
from importlib.metadata import distribution
from pathlib import Path

PARTS = (
    *("__init__.py", "errors.py", "files.py", "typed_json.py", "progress.py", "registry.py"),
    *("bundle", "graph", "runtime", "measure", "device"),
)
"""All that a device imports; `tests/test_device_environment.py` imports each module where nothing else is."""

_EPOCH = (1980, 1, 1, 0, 0, 0)


def archive() -> bytes:
    """Return a zip to be put on a device's path; the same installation gives the same bytes."""
    root, installed = Path(__file__).parents[1], distribution("edgefuse")
    files = {
        path.relative_to(root.parent).as_posix(): path.read_bytes()
        for part in PARTS
        for path in ([root / part] if part.endswith(".py") else sorted((root / part).rglob("*.py")))
    }
    metadata = f"edgefuse-{installed.version}.dist-info/"
    requires = "".join(f"Requires-Dist: {requirement}\n" for requirement in installed.requires or ())  # for `doctor`
    described = f"Metadata-Version: 2.1\nName: edgefuse\nVersion: {installed.version}\n{requires}"
    files[metadata + "METADATA"] = described.encode()
    files[metadata + "entry_points.txt"] = (installed.read_text("entry_points.txt") or "").encode()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return target.getvalue()
