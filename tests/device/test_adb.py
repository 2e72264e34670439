"""Devices behind adb, with a stand-in that speaks its command line and runs the shell in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgefuse.bundle.manifest import Machine
from edgefuse.device.device import device_of
from edgefuse.device.session import DeviceSession
from edgefuse.device.tasks import Describe
from edgefuse.errors import DeviceError

# Phones and what is the matter with them; the words are those of adb 1.0.41 (platform tools 35).
ADB = """#!/bin/sh
serial=only
[ "$1" = -s ] && serial=$2 && shift 2
[ "$1" = shell ] && [ "$2" = -T ] && [ $# = 3 ] || { echo "adb: usage: unknown command $*" >&2; exit 1; }
case $serial in
    only) if [ -e "$PHONE/second" ]; then echo "adb: more than one device/emulator" >&2; exit 1; fi ;;
    emulator-5554) ;;
    locked) echo "error: device unauthorized." >&2; exit 1 ;;
    asleep) echo "error: device offline" >&2; exit 1 ;;
    old) echo "error: device only supports allocating a pty" >&2; exit 1 ;;
    unplugged) timeout -s KILL 1 env TMPDIR="$PHONE/room" sh -c "cat >/dev/null"; echo "error: closed" >&2; exit 1 ;;
    *) echo "adb: device '$serial' not found" >&2; exit 1 ;;
esac
cd "$PHONE" && TMPDIR="$PHONE/room" exec sh -c "$3"
"""


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a phone, which adb on the path reaches."""
    folder = tmp_path / "phone"
    (folder / "room").mkdir(parents=True)
    adb = tmp_path / "bin" / "adb"
    adb.parent.mkdir()
    adb.write_text(ADB)
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", f"{adb.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PHONE", str(folder))
    return folder


def describe(uri: str) -> Machine:
    with DeviceSession(device_of(uri), sys.executable) as session:
        return session.run(Describe(backends=("onnx",), threads=1), Machine, {})


def test_bench_measures_on_a_phone(phone: Path, tiny_bundle: Path) -> None:
    options = ["--rounds", "12", "--rung", "small", "--device", "adb://emulator-5554"]
    done = subprocess.run(
        [sys.executable, "-m", "edgefuse", "bench", tiny_bundle, *options, "--device-python", sys.executable, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steady"]["small"]["runs"] >= 12
    assert list((phone / "room").iterdir()) == []


def test_the_only_device_needs_no_serial(phone: Path) -> None:
    assert describe("adb:").threads == 1
    (phone / "second").touch()
    with pytest.raises(DeviceError, match=r"there are several devices .* Fix: name one of 'adb devices'"):
        describe("adb:")


@pytest.mark.parametrize(
    ("serial", "what"),
    [
        ("locked", "the device did not let us in .locked.: got 'error: device unauthorized.'"),
        ("asleep", "the device is not ready .asleep."),
        ("old", "the device's adb is too old .old."),
        ("192.168.0.9:5555", "there is no such device .192.168.0.9:5555."),
        ("unplugged", "the connection was lost .unplugged.: got 'error: closed'"),
    ],
)
def test_what_adb_says_is_one_sentence(phone: Path, serial: str, what: str) -> None:
    with pytest.raises(DeviceError, match=what):
        describe(f"adb://{serial}")
    assert list((phone / "room").iterdir()) == []


def test_no_adb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"there is no program 'adb'. Fix: install Android's platform tools"):
        describe("adb:")
