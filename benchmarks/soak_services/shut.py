"""A command where nothing can be reached and nothing written: in namespaces of its own (Linux), without routes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgefuse.datasets.cache import cache_folder
from edgefuse.errors import MeasureError

_ALONE = ("unshare", "--net", "--mount", "--map-root-user")
_READ_ONLY = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
for place in $(echo "$2"); do mount -o remount,bind,ro "$place"; done
! touch "$3" 2>/dev/null
shift 3
exec "$@"
"""
_OF_THE_KERNEL = frozenset({"proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "securityfs"})
_OTHERS = ("/dev", "/proc", "/sys")


def run(command: Sequence[str], folder: Path) -> None:
    """Run a command that may write into a folder, and speak to nobody.

    Args:
        command: to be run where this process stands. Its home and temporary folder are folders of their own; what was
            fetched before is read from edgefuse's cache.
        folder: where it may write.

    Raises:
        MeasureError: the system does not allow this, or the command failed.
    """
    folder = folder.resolve()
    own = {name: str(folder / name.lower()) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    for place in own.values():
        Path(place).mkdir()
    with tempfile.NamedTemporaryFile() as outside:  # which cannot be touched from within
        inside = [*_ALONE, "sh", "-c", _READ_ONLY, "sh", str(folder), " ".join(_places()), outside.name, *command]
        environment = os.environ | own | {"EDGEFUSE_CACHE": str(cache_folder()), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(inside, env=environment, capture_output=True, text=True, check=False)
        except OSError as error:
            raise MeasureError("nothing here runs a command by itself", got=str(error), expected="unshare") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
        raise MeasureError("a command failed where nothing can be reached or written", got=said[-1])


def written(folder: Path) -> list[str]:
    """Return the files that such a command has left."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def _places() -> list[str]:
    """Return where file systems are mounted that hold files."""
    found = ["/"]
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, kind = line.partition(" - ")
        place = fields.split()[4]
        if kind.split()[0] not in _OF_THE_KERNEL and not f"{place}/".startswith(tuple(f"{one}/" for one in _OTHERS)):
            found.append(place)
    return sorted(set(found))
