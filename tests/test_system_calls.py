"""The reader of strace's logs that other tests trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system_calls import calls, outside

HERE = Path("/here")


def found(*lines: str, loopback: bool = False) -> list[str]:
    log = "\n".join(lines)
    return outside(log, folder=HERE, writable=[Path("/out"), Path("/tmp/own")], loopback=loopback)


@pytest.mark.parametrize(
    "line",
    [
        '1 openat(AT_FDCWD</here>, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3</etc/passwd>',
        '1 openat(AT_FDCWD</here>, "/home/a", O_RDONLY) = -1 ENOENT (No such file or directory)',
        '1 openat(AT_FDCWD</here>, "/out/a, (b", O_WRONLY|O_CREAT, 0666) = 3</out/a, (b>',
        '1 openat(AT_FDCWD</out>, "a", O_WRONLY|O_CREAT, 0666) = -1 ENOSPC (No space left on device)',
        '1 openat(AT_FDCWD</here>, "/tmp/own", O_RDWR|O_TMPFILE, 0600) = 3</tmp/own/#17>(deleted)',
        '1 openat(AT_FDCWD</here>, "/dev/null", O_RDWR|O_CLOEXEC) = 3</dev/null>',
        '1 openat(AT_FDCWD</here>, "/proc/self/task/17/comm", O_RDWR) = 26</proc/17/task/17/comm>',
        '1 link("/dev/shm/sem.PWSvqZ", "/dev/shm/sem.mp-ucp4qbmf") = 0',
        '1 mkdir("/", 0777) = -1 EEXIST (File exists)',
        '1 rename("/out/a", "/out/b") = 0',
        "1 socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0) = 3<socket:[6]>",
        "1 socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0, [20<socket:[65]>, 23<socket:[66]>]) = 0",
        '1 connect(3<socket:[6]>, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT (No such)',
        '1 connect(3<socket:[6]>, {sa_family=AF_UNIX, sun_path="/tmp/own/s"}, 110) = 0',
        "1 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=2, si_uid=0, si_status=0} ---",
        "1 +++ exited with 0 +++",
    ],
)
def test_what_may_be_is_not_reported(line: str) -> None:
    assert found(line) == []


@pytest.mark.parametrize(
    ("line", "report"),
    [
        ('1 openat(AT_FDCWD</here>, "/home/a", O_RDWR|O_CREAT, 0644) = 3</home/a>', "openat /home/a"),
        ('1 openat(AT_FDCWD</here>, "/out/link", O_WRONLY) = 3</home/a>', "openat /home/a"),
        ('1 openat(AT_FDCWD</here>, "a", O_WRONLY|O_CREAT, 0666) = -1 EROFS (Read-only)', "openat /here/a"),
        ('1 openat(7</home>, "../out/../a", O_WRONLY) = -1 EACCES (Permission denied)', "openat /a"),
        ('1 openat(AT_FDCWD</here>, "/dev/shm/own", O_RDWR|O_CREAT, 0600) = 3</dev/shm/own>', "openat /dev/shm/own"),
        ('1 open("a", O_WRONLY|O_CREAT, 0666) = 3', "open /here/a"),
        ('1 creat("/home/a", 0666) = 3', "creat /home/a"),
        ('1 mkdir("/home/.cache", 0777) = 0', "mkdir /home/.cache"),
        ('1 mkdirat(AT_FDCWD</here>, "a", 0777) = 0', "mkdirat /here/a"),
        ('1 rename("/out/a", "/outside/b") = 0', "rename /outside/b"),
        ('1 renameat2(5</home>, "a", AT_FDCWD</here>, "/out/a", 0) = 0', "renameat2 /home/a"),
        ('1 symlinkat("/out/a", AT_FDCWD</here>, "b") = 0', "symlinkat /here/b"),
        ("1 socket(AF_INET6, SOCK_DGRAM, IPPROTO_IP) = 7<socket:[6]>", "socket AF_INET6"),
        ("1 socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 7<socket:[6]>", "socket AF_NETLINK"),
        (
            "1 connect(7<socket:[6]>, {sa_family=AF_INET, "
            'sin_port=htons(443), sin_addr=inet_addr("10.2.3.4")}, 16) = 0',
            "connect 10.2.3.4:443",
        ),
        (
            '1 connect(7<socket:[6]>, {sa_family=AF_UNIX, sun_path="/run/systemd/resolve/io.systemd.Resolve"}, 42) = 0',
            "connect /run/systemd/resolve/io.systemd.Resolve",
        ),
        (
            '1 openat(AT_FDCWD</here>, "/etc/resolv.conf", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file)',
            "looks up a name: reads /etc/resolv.conf",
        ),
    ],
)
def test_what_may_not_be_is_reported(line: str, report: str) -> None:
    assert found(line) == [report]


def test_a_network_that_leads_nowhere_may_be_allowed() -> None:
    address = "{{sa_family=AF_INET, sin_port=htons({}), sin_addr=inet_addr({})}}, 16"
    six = 'sin6_port=htons(80), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "{}", &sin6_addr), sin6_scope_id=0'
    lines = (
        "1 socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 7<socket:[6]>",
        f"1 bind(7<socket:[6]>, {address.format(0, chr(34) + '127.0.0.1' + chr(34))}) = 0",
        f"1 connect(7<socket:[6]>, {{sa_family=AF_INET6, {six.format('::1')}}}, 28) = 0",
    )
    assert found(*lines, loopback=True) == []
    assert found(*lines) == ["socket AF_INET"]
    outward = (
        f"1 bind(7<socket:[6]>, {address.format(80, chr(34) + '0.0.0.0' + chr(34))}) = 0",
        f"1 connect(7<socket:[6]>, {{sa_family=AF_INET6, {six.format('2001:db8::1')}}}, 28) = 0",
        # A resolver on this machine asks others.
        f"1 connect(7<socket:[6]>, {address.format(53, chr(34) + '127.0.0.53' + chr(34))}) = 0",
    )
    assert found(*outward, loopback=True) == ["bind 0.0.0.0:80", "connect 127.0.0.53:53", "connect 2001:db8::1:80"]


def test_other_files_may_be_allowed() -> None:
    lines = [f'1 openat(AT_FDCWD</here>, "/proc/{name}", O_WRONLY) = 3</proc/{name}>' for name in ("9/a", "9/b")]
    assert outside("\n".join(lines), folder=HERE, writable=[], others=r"/proc/\d+/a") == ["openat /proc/9/b"]


def test_interrupted_calls_are_put_together() -> None:
    log = """\
1 openat(AT_FDCWD</here>, "/home/a", O_WRONLY|O_CREAT, 0666 <unfinished ...>
2 mkdir("/out/a", 0777 <unfinished ...>
1 <... openat resumed>) = 3</home/a>
2 <... mkdir resumed>)            = 0
3 creat("/home/b", 0666 <unfinished ...>"""
    assert [(call.name, call.result) for call in calls(log)] == [
        ("openat", "3</home/a>"),
        ("mkdir", "0"),
        ("creat", "?"),
    ]
    assert found(*log.splitlines()) == ["creat /home/b", "openat /home/a"]


def test_escaped_names_are_read() -> None:
    assert found(r'1 mkdir("/home/\"a\", (\303\251", 0777) = 0') == ['mkdir /home/"a", (Ã©']
