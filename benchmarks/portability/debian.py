"""Programs of a Debian release, unpacked into a cache folder: nothing is installed, and no root rights are needed.

apt gets a list, a state and a cache of its own for the release, which need not be this machine's. The mirror is the one
that this machine's apt is configured with, read when it is needed; what arrives is held to Debian's signing keys.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from edgefuse.errors import DataError

RELEASE = "trixie"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PYTHON = "python3.13"
PYTHON_PACKAGES = (
    *(PYTHON, f"{PYTHON}-minimal", f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib"),
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "liblzma5", "libbz2-1.0", "libssl3t64"),
    "libzstd1",  # of libssl
)
"""What the interpreter and wheels of C++ code need."""
EMULATOR = "usr/bin/qemu-aarch64"
EMULATOR_PACKAGES = ("qemu-user",)  # one static program per processor family, of which one is needed
# As Debian names architectures, against what wheels and compilers call them.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_CONFIGURATION = """\
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "{folder}/parts";
Dir::Etc::preferencesparts "{folder}/parts";
APT::Architecture "{own}";
APT::Architectures {{ {all} }};
"""


def own_architecture() -> str:
    """Return this machine's architecture as Debian names it; `DataError` where it is neither of the two known."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise DataError("no root can be made on this processor", got=machine, expected=" or ".join(ARCHITECTURES))
    return ARCHITECTURES[machine]


def unpacked(packages: Sequence[str], architecture: str, cache: Path, only: str = "") -> Path:
    """Return a folder that holds the files of some packages as they lie on a disk, `usr/bin` and so on.

    The folder is named after the exact versions. A release that moved on while its list lay in the cache is read anew.

    Args:
        packages: their names; what they depend on is not added.
        architecture: `amd64` or `arm64`.
        cache: of everything that is kept between runs.
        only: the one file to keep, all if empty.

    Raises:
        DataError: this is no Debian machine, or apt or dpkg fails.
    """
    folder = cache / "debian" / RELEASE
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{name}:{architecture}" for name in packages]
    with FileLock(f"{folder}.lock"):
        _configure(folder)
        if (place := _place(folder, architecture, names)).is_dir():
            return place
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            archives = Path(scratch) / "archives"
            archives.mkdir()
            try:
                _apt(folder, "download", *names, within=archives)
            except DataError:
                _apt(folder, "update")
                place = _place(folder, architecture, names)
                _apt(folder, "download", *names, within=archives)
            root = _unpack(archives, Path(scratch) / "root")
            if only:
                (Path(scratch) / "only" / only).parent.mkdir(parents=True)
                root = (root / only).rename(Path(scratch) / "only" / only).parents[len(Path(only).parts) - 1]
            root.rename(place)
    return place


def _configure(folder: Path) -> None:
    """Write apt's configuration and read the list of packages, once."""
    if (folder / "ready").is_file():
        return
    if not KEYS.is_file():
        raise DataError(
            "the keys of Debian's archive are missing", got=f"no {KEYS}", fix="install debian-archive-keyring"
        )
    own = own_architecture()
    architectures = sorted({own, "arm64"})
    for name in ("parts", "state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    listed = ",".join(architectures)
    source = f"deb [arch={listed} signed-by={KEYS}] {_mirror()} {RELEASE} main\n"
    (folder / "sources.list").write_text(source, encoding="utf-8")
    quoted = "".join(f'"{name}"; ' for name in architectures).strip()
    text = _CONFIGURATION.format(folder=folder.resolve(), own=own, all=quoted)
    (folder / "apt.conf").write_text(text, encoding="utf-8")
    _apt(folder, "update")
    (folder / "ready").touch()


def _mirror() -> str:
    """Return the address of Debian's archive as this machine's apt knows it."""
    about = platform.freedesktop_os_release()
    wanted = "$(RELEASE) $(COMPONENT) $(CREATED_BY) $(REPO_URI)"
    lines = _run(["apt-get", "indextargets", "--format", wanted]).splitlines()
    own = f"{about.get('VERSION_CODENAME')} main Packages "
    found = [line.removeprefix(own) for line in lines if line.startswith(own)]
    if about.get("ID") != "debian" or not found:
        raise DataError(
            "this machine's apt knows no mirror of Debian",
            got=about.get("PRETTY_NAME", "an unknown system"),
            expected="a Debian system with its own release in apt's sources",
            fix="run it on one: a container will do",
        )
    return found[0]


def _place(folder: Path, architecture: str, names: Sequence[str]) -> Path:
    """Return where exactly these packages are kept, by the names, versions and hashes of the current list."""
    lines = _apt(folder, "download", "--print-uris", *names).splitlines()
    files = sorted(line.split(" ", 1)[1] for line in lines)  # without the mirror
    return folder / f"{architecture}-{hashlib.sha256(chr(10).join(files).encode()).hexdigest()[:16]}"


def _apt(folder: Path, *arguments: str, within: Path | None = None) -> str:
    return _run(["apt-get", "-q", *arguments], within or folder, {"APT_CONFIG": str(folder / "apt.conf")})


def _unpack(archives: Path, root: Path) -> Path:
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(archive), str(root)])
    for name in ("bin", "lib", "lib64", "sbin"):  # the links that a merged /usr comes with, of a package of its own
        if (root / "usr" / name).is_dir() and not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    return root


def _run(command: Sequence[str], folder: Path | None = None, variables: dict[str, str] | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise DataError(
            "no root can be put together here",
            got=f"no program '{command[0]}'",
            expected="a Debian system with apt and dpkg",
            fix="run it on one: a container will do",
        )
    environment = {**os.environ, "LC_ALL": "C", **(variables or {})}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
        raise DataError(
            f"'{' '.join(command[:3])} …' failed",
            got=f"exit code {done.returncode}, '{complaints[-1].strip() if complaints else 'no message'}'",
            fix="see whether apt reaches its mirror",
        )
    return done.stdout
