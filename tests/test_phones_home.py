"""Nothing phones home: what `edgefuse` does on a machine stays there, and within the folders that it was given."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import edgefuse
from benchmarks.peers import environment
from tests.system_calls import outside, traced

ROOT = Path(__file__).parents[1]
OWN = Path(__file__).parent / "compiler" / "own"
EDGEFUSE = (sys.executable, "-m", "edgefuse")
HURRIED = (sys.executable, "-m", "tests.compiler.hurry")
# Peers that run in environments of their own, where edgefuse is not; `environment.variables` speaks for them.
IN_OTHER_ENVIRONMENTS = {
    *("benchmarks/peers/quantizers/onnxruntime.py", "benchmarks/peers/runtimes/onnxruntime.py"),
    *("benchmarks/gpu_reference/engines.py", "benchmarks/gpu_reference/parts.py"),
}
# Code of a process that inherits the environment of one that has imported edgefuse.
IN_CHILDREN = {"benchmarks/overhead.py"}


@dataclass
class Place:
    """Where traced commands run: nothing is at home, nothing in the folder for temporary files."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("home", "t", "cache", "out", "here"):
            (self.root / name).mkdir(parents=True)

    @property
    def environment(self) -> dict[str, str]:
        """No more than what is needed: telemetry keeps still where it finds itself on a build server."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "t"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(map(str, (OWN, ROOT))),
            **self.variables,
        }

    def found(self, *command: str | Path, others: str = "", loopback: bool = False) -> list[str]:
        """Run a command under strace; return what it did outside of the output, the cache and the temporary folder."""
        log, here = self.root / "log", self.root / "here"
        done = traced(command, log, folder=here, environment=self.environment)
        assert done.returncode == 0, done.stderr
        writable = [self.root / name for name in ("out", "cache", "t")]
        text = log.read_text(encoding="utf-8", errors="surrogateescape")
        return outside(text, folder=here, writable=writable, others=others, loopback=loopback)

    def left(self) -> list[str]:
        """Return what lies at home, in the current folder and in that for temporary files."""
        folders = [self.root / name for name in ("home", "here", "t")]
        return sorted(str(path.relative_to(self.root)) for folder in folders for path in folder.rglob("*"))


@pytest.fixture(scope="session")
def strace() -> None:
    """Without strace nothing can be said; where everything is to be checked, that is a failure."""
    said = "there is none"
    if shutil.which("strace") is not None:
        tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return
        said = tried.stderr
    message = f"that nothing leaves the machine was not checked: it takes strace, and {said}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def place(tmp_path: Path, strace: None) -> Place:
    return Place(tmp_path / "place")


@pytest.fixture
def short_place(strace: None) -> Iterator[Place]:
    """A place with a short path: below it stand Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Place(Path(folder))


@pytest.mark.slow
def test_nothing_leaves_the_machine_or_the_given_folders(short_place: Place) -> None:
    """No one looks at what is timed."""
    check_every_verb(short_place, [*HURRIED, "--inductor", *compiling(short_place)], ["onnx", "tflite"])


@pytest.mark.exhaustive
def test_nothing_leaves_or_stays_when_a_compile_is_stopped_or_runs_on_ray(short_place: Place) -> None:
    place, cache, words = short_place, short_place.root / "cache", compiling(short_place)
    for number in (signal.SIGINT, signal.SIGTERM):
        shutil.rmtree(cache / "timings", ignore_errors=True)
        check_stopping(place, [*HURRIED, "--inductor", *words], number)
    shutil.rmtree(cache / "stage-onnx")
    check_ray(place, [*HURRIED, *words])
    assert list((cache / "stage-onnx").iterdir())


@pytest.mark.slow
@pytest.mark.exhaustive
def test_nothing_leaves_with_openvino_and_nncf(short_place: Place) -> None:
    check_every_verb(short_place, [*HURRIED, *compiling(short_place)], ["openvino"])


def compiling(place: Place) -> list[str]:
    """Return the words of the command line that compile the two-input model in a place."""
    options = {"--out": place.root / "out", "--cache": place.root / "cache"}
    return ["compile", str(OWN / "recipe.toml"), *map(str, chain(*options.items()))]


def check_every_verb(place: Place, command: Sequence[str], targets: Sequence[str]) -> None:
    """Compile for targets in two processes, and use what came of it."""
    named = [word for target in targets for word in ("--target", target)]
    found = {"compile": place.found(*command, *named, "--jobs", "2")}
    picture = place.root / "out" / "image.npy"
    np.save(picture, np.zeros((16, 16), np.uint8))
    for target in targets:
        bundle = place.root / "out" / f"pair-{target}.edgefuse"
        for verb, *options in (("run", "--image", str(picture)), ("verify",), ("bench", "--rounds", "20")):
            found[f"{verb} {target}"] = place.found(*EDGEFUSE, verb, bundle, *options)
    found["doctor"] = place.found(*EDGEFUSE, "doctor")
    assert not any(found.values()), found
    assert place.left() == []


def check_stopping(place: Place, command: Sequence[str], number: signal.Signals) -> None:
    """Stop a compile in the middle of torch's compiler, when drafts of bundles lie there, too."""
    with subprocess.Popen(
        command,
        env=place.environment,
        cwd=place.root / "here",
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not list((place.root / "t").glob("edgefuse-*/*/*.so")):
            time.sleep(0.05)
            assert process.poll() is None
        assert list((place.root / "t").glob("edgefuse-*/*.edgefuse"))
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=600)
    assert (process.returncode, said.splitlines()[-1]) == (130, b"edgefuse: interrupted")
    assert place.left() == []


def check_ray(place: Place, command: Sequence[str]) -> None:
    """Let a cluster of our own do the work: it speaks to itself."""
    # Ray's shared memory has no name any more when it is used; which process goes first where memory is short.
    others = r"/dev/shm/plasma\w+|/proc/\d+/oom_score_adj"
    assert place.found(*command, "--jobs", "2", "--engine", "ray", others=others, loopback=True) == []
    assert place.left() == []


def test_telemetry_that_is_on_is_seen(place: Place, tiny_bundle: Path) -> None:
    place.variables["ORT_DISABLE_TELEMETRY"] = "0"
    found = place.found(*EDGEFUSE, "verify", tiny_bundle)
    kept = place.root / "home" / ".cache" / "Microsoft"
    assert f"mkdir {kept}" in found
    assert [line for line in found if line.endswith("/deviceid")], found
    assert "home/.cache/Microsoft" in place.left()
    off = Place(place.root / "off")
    assert off.found(*EDGEFUSE, "verify", tiny_bundle) == []
    assert off.left() == []


def test_openvino_and_nncf_report_unless_they_are_imported_here(place: Place) -> None:
    """No variable stops them; `import openvino` alone reports, on a device as well."""
    found = place.found(sys.executable, "-c", "import openvino, time; time.sleep(1)")
    assert [line for line in found if "/home/intel" in line], found
    off = Place(place.root / "off")
    script = (
        "import edgefuse.quantize.openvino.post_training as made, sys\n"
        "from edgefuse.runtime.backends.openvino.session import core\n"
        "assert core().available_devices and made.nncf and 'openvino_telemetry' not in sys.modules"
    )
    assert off.found(sys.executable, "-c", script) == []
    assert off.left() == []


def test_openvino_and_nncf_are_imported_in_one_place_each() -> None:
    vendors = {
        "openvino": "edgefuse/runtime/backends/openvino/api.py",
        "nncf": "edgefuse/quantize/openvino/post_training.py",
    }
    for vendor, place in vendors.items():
        found = {path for path, tree in python_files() if vendor in {n.partition(".")[0] for n in imported(tree)}}
        assert {path for path in found if not path.startswith("benchmarks/peers/")} == {place}


def test_a_name_that_is_looked_up_is_seen(place: Place) -> None:
    script = "import contextlib, socket\nwith contextlib.suppress(OSError): socket.getaddrinfo('edgefuse.invalid', 443)"
    assert "looks up a name: reads /etc/resolv.conf" in place.found(sys.executable, "-c", script)
    script = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 443))"
    assert place.found(sys.executable, "-c", script) == ["connect 192.0.2.1:443", "socket AF_INET"]


def python_files() -> Iterator[tuple[str, ast.Module]]:
    """Yield all Python of this project, by its path."""
    for folder in ("edgefuse", "tests", "benchmarks", "examples", "docs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that a file imports, wherever in it, by a statement or by a call that names one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__", "importorskip"):
                yield str(node.args[0].value)


def test_onnxruntime_is_imported_in_one_place() -> None:
    found = {
        path for path, tree in python_files() if any(name.partition(".")[0] == "onnxruntime" for name in imported(tree))
    }
    assert found == {"edgefuse/runtime/backends/onnx/api.py", *IN_OTHER_ENVIRONMENTS}


def test_code_in_text_imports_onnxruntime_only_in_children() -> None:
    def is_code(text: str) -> bool:
        with suppress(SyntaxError, ValueError):
            return any(name.partition(".")[0] == "onnxruntime" for name in imported(ast.parse(text)))
        return False

    found = {
        path
        for path, tree in python_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "onnxruntime" in node.value
        if is_code(node.value)
    }
    assert found == IN_CHILDREN


def test_importing_edgefuse_switches_off_what_the_user_did_not_switch_on() -> None:
    script = "import os, edgefuse; print({name: os.environ[name] for name in edgefuse.QUIET} == dict(edgefuse.QUIET))"
    bare = {name: value for name, value in os.environ.items() if name not in edgefuse.QUIET}
    for variables, answer in ((bare, "True\n"), (bare | {"ORT_DISABLE_TELEMETRY": "0"}, "False\n")):
        command = [sys.executable, "-c", script]
        assert subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout == answer


def test_peers_are_started_with_their_reports_switched_off() -> None:
    with environment.home() as home:
        started = environment.variables(home)
        assert {name: started[name] for name in edgefuse.QUIET} == dict(edgefuse.QUIET)
        assert started["OLIVE_DISABLE_TELEMETRY"] == "1"
        assert started["HOME"] == started["TMPDIR"] == home
        assert Path(home, "intel", "openvino_telemetry").read_text(encoding="ascii") == "0"
    assert not Path(home).exists()
