"""A device on loopback: a real `sshd` with keys of its own, whose sessions can be made to misbehave."""

from __future__ import annotations

import getpass
import hashlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest
from filelock import FileLock

from edgefuse.datasets.packages import cache_folder

Cli: TypeAlias = "Callable[..., subprocess.CompletedProcess[str]]"
SYSTEM_PATH = os.environ["PATH"] + os.pathsep + "/usr/sbin"
SSHD_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
ForceCommand . {folder}/session.sh
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
"""
SSH_CONFIG = """
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile none
IdentityFile {folder}/user
IdentitiesOnly yes
"""


@dataclass
class Place:
    """A device as a test sees it.

    Attributes:
        uri: names it.
        tools: the folder of the program that reaches it, for `PATH`.
        room: where it makes its folder for temporary files; empty when nothing was left behind.
        before: what its shell does before each session; changes how the device behaves.
        after: a filter of what a session prints.
    """

    uri: str
    tools: Path
    room: Path
    session: Path
    log: Path
    server: subprocess.Popen[bytes] | None = None
    python: str = field(default=sys.executable)

    @property
    def variables(self) -> dict[str, str]:
        return os.environ | {"PATH": f"{self.tools}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def behave(self, before: str = "", after: str = "") -> None:
        """Let sessions do something first, and pass what they print through a filter."""
        room = f"export TMPDIR={shlex.quote(str(self.room))}"
        self.session.write_text(f'{room}\n{before}\neval "$SSH_ORIGINAL_COMMAND" {after}\n')

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        for _ in range(3600):
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError(f"it did not come about; in {self.room}: {sorted(self.room.rglob('*'))}")

    def left(self) -> list[Path]:
        return sorted(self.room.iterdir())

    def busy(self) -> bool:
        """Whether an agent has got the files of a task."""
        return any(self.room.glob("*/files/*"))

    def connections(self) -> int:
        return self.log.read_text().count("Accepted publickey")

    def cut(self) -> None:
        """Kill the server's end of every connection."""
        assert self.server is not None
        own = [found for child in children(self.server.pid) for found in (*children(child.pid), child)]
        for process in own:
            if "sshd" in process.name:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)


class Process(NamedTuple):
    pid: int
    name: str


def children(parent: int) -> list[Process]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended by now
            name, _, fields = status.read_text().partition(" (")[2].rpartition(")")
            if int(fields.split()[1]) == parent:
                found.append(Process(int(status.parent.name), name))
    return found


@pytest.fixture(scope="session")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The path of sshd and what it needs in its environment: as installed, else out of Debian's packages."""
    for program in ("ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here: nothing behind ssh was checked")
    packages = [] if shutil.which("sshd", path=SYSTEM_PATH) else ["openssh-server", "libwrap0"]
    as_root = os.geteuid() == 0
    lonely = as_root and not any(user.pw_name == "sshd" for user in pwd.getpwall())
    packages += ["libnss-wrapper"] if lonely else []
    root = _unpacked(packages) if packages else tmp_path_factory.mktemp("openssh")
    sshd = shutil.which("sshd", path=f"{root}/usr/sbin{os.pathsep}{SYSTEM_PATH}")
    assert sshd is not None
    libraries = sorted({str(path.parent) for path in root.rglob("*.so*")})
    variables = os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    if lonely:  # as root it wants a user to give rights away to: one that only it sees
        users = tmp_path_factory.mktemp("users") / "passwd"
        users.write_text(Path("/etc/passwd").read_text() + "sshd:x:65533:65534::/nonexistent:/usr/sbin/nologin\n")
        (wrapper,) = {path.resolve() for path in root.rglob("libnss_wrapper.so")}
        variables |= {"LD_PRELOAD": str(wrapper), "NSS_WRAPPER_PASSWD": str(users), "NSS_WRAPPER_GROUP": "/etc/group"}
    if as_root:  # and an empty folder, as its service makes it
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return sshd, variables


def _unpacked(packages: Sequence[str]) -> Path:
    """Return a folder with Debian packages unpacked, which is kept for the next time; or skip."""
    system = Path("/etc/os-release").read_bytes() if Path("/etc/os-release").exists() else b""
    place = cache_folder() / "openssh" / hashlib.sha256(system + " ".join(packages).encode()).hexdigest()
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"), tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        if not place.is_dir():
            try:
                command = ["apt-get", "download", "-q", *packages]
                subprocess.run(command, cwd=scratch, check=True, capture_output=True)
                for file in sorted(Path(scratch).glob("*.deb")):
                    subprocess.run(["dpkg", "-x", file, f"{scratch}/root"], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(
                    f"no {packages} here, and apt-get cannot fetch them ({error}): nothing behind ssh was checked"
                )
            Path(scratch, "root").rename(place)
    return place


@pytest.fixture
def unpacked() -> Callable[[str], Path]:
    """Return the folder of a shell that is no part of every system, with the libraries that it needs, or skip."""
    needs = {"fish": ["libpcre2-32-0"]}
    return lambda package: _unpacked([package, *needs.get(package, [])])


@pytest.fixture
def place(openssh: tuple[str, dict[str, str]], tmp_path: Path) -> Iterator[Place]:
    """A device behind ssh, whose folder for temporary files has a name that asks for quoting."""
    folder = tmp_path / "sshd"
    (folder / "bin").mkdir(parents=True)
    room = folder / 'it\'s a "device" $HOME'
    room.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    sshd, variables = openssh
    port, server = _started(sshd, folder, variables)
    known = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {known}")
    (folder / "ssh_config").write_text(SSH_CONFIG.format(folder=folder))
    client = folder / "bin" / "ssh"
    client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    client.chmod(0o755)
    uri = f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
    made = Place(uri, client.parent, room, folder / "session.sh", folder / "log", server)
    made.behave()
    try:
        yield made
    finally:
        server.kill()
        server.wait()


def _started(sshd: str, folder: Path, variables: dict[str, str]) -> tuple[int, subprocess.Popen[bytes]]:
    """Start the server on a free port; on another one, if somebody else took that in between."""
    log = folder / "log"
    for _ in range(5):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "sshd_config").write_text(SSHD_CONFIG.format(port=port, folder=folder))
        with log.open("wb") as target:
            server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], env=variables, stderr=target)
        while server.poll() is None:
            if "Server listening" in log.read_text():
                return port, server
            time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture
def cli(place: Place, tmp_path: Path) -> Cli:
    """Run `edgefuse` as a process that finds the device's client."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgefuse", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=place.variables, capture_output=True, text=True, check=False)

    return run
