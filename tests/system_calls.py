"""What a command asks of the system, as strace tells it: the files that it makes or writes, the addresses it speaks to.

Only what leads out of the given folders, or out of this machine, is reported; every report is one line.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A question mark: not every machine has this call.
_CALLS = (
    *("network", "?open", "openat", "?openat2", "?creat", "?mkdir", "mkdirat", "?mknod", "mknodat"),
    *("?rename", "?renameat", "renameat2", "?link", "linkat", "?symlink", "symlinkat"),
)
# Where a call names what it makes: the argument of the folder (None: the current one), and that of the path.
_MADE: Mapping[str, tuple[tuple[int | None, int], ...]] = {
    "open": ((None, 0),),
    "creat": ((None, 0),),
    "openat": ((0, 1),),
    "openat2": ((0, 1),),
    "mkdir": ((None, 0),),
    "mkdirat": ((0, 1),),
    "mknod": ((None, 0),),
    "mknodat": ((0, 1),),
    "rename": ((None, 0), (None, 1)),
    "renameat": ((0, 1), (2, 3)),
    "renameat2": ((0, 1), (2, 3)),
    "link": ((None, 1),),
    "linkat": ((2, 3),),
    "symlink": ((None, 1),),
    "symlinkat": ((1, 2),),
}
_WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE")
# Not files that stay: nothing, the name of a thread, and semaphores, whose names are taken away at once.
_NO_FILES = re.compile(r"/dev/null|/proc/(self|\d+)/task/\d+/comm|/dev/shm/sem\.[\w-]+")
_READ_FOR_NAMES = ("/etc/resolv.conf", "/etc/hosts")
_SPEAKS = ("connect", "bind", "sendto", "sendmsg", "sendmmsg")
_IP = re.compile(r'htons\((\d+)\).*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"')
_UNIX = re.compile(r'sa_family=AF_UNIX, sun_path=(@?)"([^"]*)"')
_NAME_SERVICE = "/var/run/nscd/socket"  # asked for the user's name, too; there is hardly ever one
_DNS = 53


@dataclass(frozen=True)
class Call:
    """A system call: its arguments as strace spells them, and what came of it."""

    name: str
    arguments: tuple[str, ...]
    result: str


def traced(
    command: Sequence[str | Path], log: Path, *, folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command and all that it starts under strace, in a folder and an environment of its own."""
    strace = ("strace", "-f", "--seccomp-bpf", "-y", "-e", f"trace={','.join(_CALLS)}", "-o", log, "--")
    return subprocess.run(
        [*strace, *command], cwd=folder, env=dict(environment), capture_output=True, text=True, check=False
    )


def outside(log: str, *, folder: Path, writable: Iterable[Path], others: str = "", loopback: bool = False) -> list[str]:
    """Return what a traced command did outside of what it may do.

    Args:
        log: what strace wrote.
        folder: where the command stood; nothing may be made there.
        writable: the folders in which anything may be made.
        others: a pattern of other files that may be written.
        loopback: whether it may speak to itself over the network interface that leads nowhere; then it may also look
            up names as long as it asks nobody, and ask the kernel for its own addresses.
    """
    roots = tuple(path.resolve() for path in writable)
    found = set()
    for call in calls(log):
        for path in _made(call, folder):
            if not (_is_within(path, roots) or _NO_FILES.fullmatch(path) or re.fullmatch(others, path)):
                found.add(f"{call.name} {path}")
        found |= {f"{call.name} {what}" for what in _spoken_to(call, roots, loopback=loopback)}
        if not loopback:
            found |= {f"looks up a name: reads {path}" for path in _READ_FOR_NAMES if f'"{path}"' in call.arguments[:2]}
    return sorted(found)


def calls(log: str) -> Iterator[Call]:
    """Yield the calls of a log; those that another process interrupted in the log are put together."""
    begun: dict[str, str] = {}
    for line in log.splitlines():
        process, _, text = line.partition(" ")
        text = text.lstrip()
        if text.startswith("<... "):
            text = begun.pop(process, "") + text.partition(" resumed>")[2]
        if text.endswith(" <unfinished ...>"):
            begun[process] = text.removesuffix(" <unfinished ...>")
        elif call := _call(text):
            yield call
    for text in begun.values():  # a process was killed in it
        if call := _call(f"{text}) = ?"):
            yield call


def _call(text: str) -> Call | None:
    """Take a line apart; None for a signal or an end."""
    name, bracket, rest = text.partition("(")
    if not bracket or not name.isidentifier():
        return None
    inside, _, result = rest.rpartition(" = ")
    return Call(name, tuple(_split(inside.rstrip().removesuffix(")"))), result)


def _split(text: str) -> Iterator[str]:
    """Split arguments at the commas that stand in no string, brackets or name of a descriptor."""
    depth, start, quoted = 0, 0, False
    for match in re.finditer(r'\\.|"|<[^<>]*>|[({\[]|[)}\]]|,', text):
        token = match.group()
        if token == '"':
            quoted = not quoted
        elif not quoted and token in "({[":
            depth += 1
        elif not quoted and token in ")}]":
            depth -= 1
        elif not quoted and token == "," and depth == 0:
            yield text[start : match.start()].strip()
            start = match.end()
    yield text[start:].strip()


def _made(call: Call, folder: Path) -> Iterator[str]:
    """Yield the paths that a call makes, opens for writing or takes away."""
    if call.name not in _MADE or (call.name.startswith("open") and not any(map(_WRITES.search, call.arguments))):
        return
    if call.name.startswith("mkdir") and "EEXIST" in call.result:
        return
    opened = re.fullmatch(r"\d+<([^<>]*)>(\(deleted\))?", call.result)
    if opened:  # strace says what the name led to
        yield opened[1]
        return
    for base, path in _MADE.get(call.name, ()):
        named = re.fullmatch(r".*<([^<>]*)>", "" if base is None else call.arguments[base])
        yield os.path.normpath(Path(named[1] if named else folder, _text(call.arguments[path])))


def _text(argument: str) -> str:
    return argument.strip('"').encode("latin-1").decode("unicode_escape")


def _is_within(path: str, roots: Iterable[Path]) -> bool:
    return any(Path(path).is_relative_to(root) for root in roots)


def _spoken_to(call: Call, roots: Iterable[Path], *, loopback: bool) -> Iterator[str]:
    """Yield what a call makes or uses of sockets that it may not."""
    if call.name == "socket":
        allowed = ("AF_UNIX", *(("AF_INET", "AF_INET6", "AF_NETLINK") if loopback else ()))
        if call.arguments[0] not in allowed:
            yield call.arguments[0]
    if call.name not in _SPEAKS:
        return
    whole = ", ".join(call.arguments)
    for port, address in _IP.findall(whole):
        own = address == "::1" or address.startswith(("127.", "::ffff:127."))
        if not own or int(port) == _DNS:
            yield f"{address}:{port}"
    for abstract, path in _UNIX.findall(whole):
        if not abstract and path != _NAME_SERVICE and not _is_within(path, roots):
            yield path
