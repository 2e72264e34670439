"""A bundle behind Ray Serve, on a cluster of this machine: one for all tests of this module."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
from ray._private import ray_constants

from benchmarks.soak_services.replicated import Replicated, below
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.writer import write_bundle
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.runtime.live import Live
from edgefuse.serve.http.service import HttpService
from edgefuse.serve.queue import Queue
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timing]
"""One process after the other, in this order: they share a cluster, which takes all processors to start."""
TOKEN = 32 * "5e"
"""Of the cluster."""
T = TypeVar("T")
BODY = {"inputs": {"motion": [[[0.5, 0.25, -1.0]] * 3], "text": "please stop"}}


class Answered(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served(NamedTuple):
    process: subprocess.Popen[str]
    port: int
    bundle: Path

    def ask(self, method: str, path: str, body: object = None, **fields: str) -> Answered:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, data, {"Content-Type": "application/json"} | fields)
            answer = connection.getresponse()
            return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def predict(self, body: object = BODY) -> Answered:
        return self.ask("POST", "/v1/predict", body)

    @property
    def replicas(self) -> set[int]:
        """The processes that answer, without what stands in front of them."""
        return Replicated(self.process, "127.0.0.1", self.port).replicas


def pictures(scale: float) -> npt.NDArray[np.uint8]:
    """Return a grey picture, uint8 [8, 8], that is darker the smaller the scale."""
    return (np.random.default_rng(3).integers(0, 256, (8, 8)) * scale).astype(np.uint8)


def dynamic_encoder() -> bytes:
    """Return the image encoder of the tiny model, quantized dynamically as ONNX Runtime's tools do it."""
    model = onnx.load_from_string(tiny.files()["image_encoder.dynamic_wi8_af32"])
    made = onnx.parser.parse_graph(
        """image_encoder (float[1, 1, 8, 8] normalised) => (float[1, 8] feature) {
            flat = Flatten(normalised)
            quantized, step, zero = DynamicQuantizeLinear(flat)
            product = MatMulInteger(quantized, weight, zero)
            real = Cast<to = 1>(product)
            both = Mul(step, scale)
            scaled = Mul(real, both)
            hidden = Add(scaled, bias)
            feature = Tanh(hidden)
        }"""
    )
    made.initializer.extend(model.graph.initializer)
    model.graph.CopyFrom(made)
    data: bytes = model.SerializeToString()
    return data


def write_dynamic(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    """Write the tiny bundle with that encoder, at the rung `small`."""
    data = dynamic_encoder()
    candidates = tuple(
        msgspec.structs.replace(each, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        if each.id == "image_encoder.dynamic_wi8_af32"
        else each
        for each in manifest.candidates
    )
    sizes = {each.id: each.size_bytes for each in candidates}
    rungs = tuple(
        msgspec.structs.replace(rung, size_bytes=sum(sizes[name] for name in rung.candidates.values()))
        for rung in manifest.rungs
    )
    files = dict(contents) | {"stages/image_encoder.dynamic_wi8_af32.onnx": data}
    write_bundle(path, msgspec.structs.replace(manifest, candidates=candidates, rungs=rungs), files)


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny_manifest: Manifest, tiny_contents: dict[str, bytes]
) -> Iterator[Served]:
    bundle = tmp_path_factory.mktemp("ray") / "tiny"
    write_dynamic(bundle, tiny_manifest, tiny_contents)
    command = [
        sys.executable,
        "-m",
        "edgefuse",
        "serve",
        str(bundle),
        "--replicas",
        "2",
        "--queue",
        "24",
        "--rung",
        "small",
    ]
    command += ["--http", "127.0.0.1:0", "--max-body", "1", "--json"]
    complaints = bundle.with_name("complaints")
    with complaints.open("w") as stderr:
        variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=variables | {"RAY_AUTH_TOKEN": TOKEN}
        )
    assert process.stdout is not None
    try:
        text = process.stdout.readline()
        assert text, complaints.read_text()
        yield Served(process, int(json.loads(text)["http"].rpartition(":")[2]), bundle)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=120)
        finally:
            process.kill()


def test_it_answers_like_the_http_service(served: Served) -> None:
    """What is sent and what comes back are the same, but for the times."""
    with (
        Live(served.bundle, rung="small") as live,
        closing(Queue(live, 8)) as queue,
        HttpService("127.0.0.1:0", queue, live) as service,
    ):
        local = Served(served.process, int(service.url.rpartition(":")[2]), served.bundle)
        compare(served, local)


def compare(served: Served, local: Served) -> None:
    requests: tuple[tuple[str, str, object], ...] = (
        ("POST", "/v1/predict", BODY),
        ("POST", "/v1/predict", {"inputs": {"smell": "good"}}),
        ("POST", "/v1/predict", b"{"),
        ("POST", "/v1/predict?explain=true", BODY),
        ("POST", "/v1/generate", BODY),
        ("GET", "/v1/predict", None),
        ("GET", "/v1/model", None),
        ("GET", "/openapi.json", None),
        ("GET", "/healthz", None),
        ("GET", "/nothing", None),
        ("GET", "/", None),
        ("HEAD", "/v1/model", None),
        ("OPTIONS", "/v1/predict", None),
        ("GET", "/healthz%0A", None),
        ("POST", "/v1/%2570redict", BODY),
        ("POST", "/v1/predict?explain=%ff", BODY),
    )
    for method, path, body in requests:
        there, here = served.ask(method, path, body), local.ask(method, path, body)
        assert there.status == here.status, path
        assert there.fields["content-length"] == here.fields["content-length"] or "predict" in path
        if "predict?" in path or path.endswith("predict"):
            assert {k: v for k, v in there.json.items() if k != "timing"} == {
                k: v for k, v in here.json.items() if k != "timing"
            }
        else:
            assert there.body == here.body
        assert there.fields["x-content-type-options"] == "nosniff"


def test_what_cannot_be_read_takes_no_other_answer_with_it(served: Served) -> None:
    with ThreadPoolExecutor(16) as clients:
        odd = [clients.submit(served.ask, "GET", "//[") for _ in range(8)]
        honest = [clients.submit(served.predict) for _ in range(8)]
        assert {one.result().status for one in honest} == {200}
        assert {one.result().status for one in odd} <= {400, 404}


def test_where_ray_serve_runs_already_a_second_one_is_refused(served: Served) -> None:
    """On a cluster that `RAY_ADDRESS` names: the one that is there, and what it answers, are not touched."""
    address = told_to_rays(served, "gcs-address")
    command = [sys.executable, "-m", "edgefuse", "serve", str(served.bundle), "--replicas", "1"]
    here = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}  # else Ray looks for 127.0.0.1 at the network's address
    variables = os.environ | here | {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    second = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=180, check=False)
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr == (
        "edgefuse: error: Ray Serve runs on this cluster already: expected a cluster of its own, or one without Ray "
        "Serve. Fix: end it, or run `edgefuse.serve.ray.application.application(bundle)` beside the others yourself.\n"
    )
    assert served.predict().status == 200


def told_to_rays(served: Served, option: str) -> str:
    """Return what the processes of Ray are given as an option."""
    words = {word for words in below(served.process.pid).values() for word in words}
    (value,) = {word.partition("=")[2] for word in words if word.startswith(f"--{option}=")}
    return value


def test_a_hangup_does_nothing(served: Served) -> None:
    served.process.send_signal(signal.SIGHUP)
    assert served.predict().status == 200
    assert served.process.poll() is None


def test_nobody_gives_orders_to_ray(served: Served) -> None:
    """By fields that its proxy knows: it would give up early, fail where one is not UTF-8, and repeat one."""
    for name in ("x-request-timeout-seconds", "x-request-disconnect-disabled", "x-request-id", "x-session-id"):
        answer = served.ask("POST", "/v1/predict", BODY, **{name: "0.0001\xff"})
        assert answer.status == 200, name
        assert "0.0001" not in answer.fields["x-request-id"]
    fields = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    assert served.ask("GET", "/", None, **fields, **{"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}).status == 403


def test_what_is_too_large_is_refused(served: Served) -> None:
    answer = served.predict({"inputs": {"text": "a" * (1 << 20)}})
    assert (answer.status, answer.json["error"]["status"]) == (413, 413)


def test_another_host_is_refused_without_a_token(served: Served) -> None:
    """A page from elsewhere whose name is made to lead here."""
    assert served.ask("GET", "/v1/model", Host="evil.example").status == 421


def test_an_answer_in_a_batch_is_that_of_the_request_alone(served: Served) -> None:
    """Bit for bit, whatever the pictures of the others: each is scaled by itself."""
    shades = [pictures(scale) for scale in (1.0, 0.7, 0.1, 0.02)]
    bodies = [{"inputs": {"image": shade.tolist(), "motion": [[[0.5, 0.25, -1.0]] * 3]}} for shade in shades]
    alone = [served.predict(body).json["outputs"] for body in bodies]
    assert len({json.dumps(outputs) for outputs in alone}) == len(bodies)
    with ThreadPoolExecutor(16) as clients:
        together = [answer.json["outputs"] for answer in clients.map(served.predict, 4 * bodies)]
    assert together == 4 * alone


def test_a_graph_with_a_batch_would_answer_otherwise() -> None:
    """Why the batch is pinned: dynamic quantization has one scale for all that a tensor holds."""
    model = onnx.load_from_string(dynamic_encoder())
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "N"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    both = np.concatenate([pictures(scale)[None, None] / np.float32(255) for scale in (1.0, 0.1)])
    (together,) = session.run(None, {"normalised": both})
    alone = np.concatenate([session.run(None, {"normalised": each[None]})[0] for each in both])
    np.testing.assert_array_equal(together[0], alone[0])  # it has the largest number, and so its own scale
    assert np.abs(together[1] - alone[1]).max() > 1e-4


def test_what_is_more_than_may_wait_is_told_to_come_again(served: Served) -> None:
    with ThreadPoolExecutor(48) as clients:
        answers = list(clients.map(served.predict, [BODY] * 200))
    statuses = [answer.status for answer in answers]
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 24
    refused = [answer for answer in answers if answer.status == 429]
    assert all(int(answer.fields["retry-after"]) >= 1 for answer in refused)
    assert all("the queue is full" in answer.json["error"]["message"] for answer in refused)


def test_no_request_is_lost_with_a_replica(served: Served) -> None:
    """No client asks twice: each of its requests was admitted, and is answered."""
    stop, expected = count(), served.predict().json["outputs"]
    ended: list[int] = []

    def load() -> list[Answered]:
        seen = []
        while not ended:
            seen.append(served.predict())
            next(stop)
        return seen

    before = until(lambda: both(served))
    with ThreadPoolExecutor(12) as clients:
        loads: list[Future[list[Answered]]] = [clients.submit(load) for _ in range(12)]
        try:
            after(stop, 60)
            os.kill(min(before), signal.SIGKILL)
            after(stop, 200)
        finally:
            ended.append(1)
        answers = [answer for one in loads for answer in one.result()]
    assert {answer.status for answer in answers} == {200}
    assert all(answer.json["outputs"] == expected for answer in answers)
    assert min(before) not in served.replicas
    until(lambda: both(served))  # Ray puts another one in its place


def after(counter: count[int], more: int) -> None:
    """Wait until so many more requests were answered."""
    begin = next(counter)
    until(lambda: next(counter) - begin > more)


def both(served: Served) -> set[int]:
    """The two replicas; none where one of them has not begun, or bears another name while it does something else."""
    return found if len(found := served.replicas) == 2 else set()


def until(condition: Callable[[], T]) -> T:
    """Wait for three minutes at most, and return what it is."""
    ends = time.monotonic() + 180
    while not (found := condition()):
        assert time.monotonic() < ends
        time.sleep(0.1)
    return found


def test_nothing_phones_home_and_nobody_else_is_let_in(served: Served) -> None:
    all_of_them = below(served.process.pid)
    assert len(all_of_them) > 5
    for pid, words in all_of_them.items():
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if words and not words[0].startswith("ray::"):  # they write their titles over their variables, which are these
            assert b"RAY_USAGE_STATS_ENABLED=0" in variables, words
    assert listening(set(all_of_them)) <= {"0100007F", "0000000000000000FFFF00000100007F"}
    folder = Path(told_to_rays(served, "session-dir")).parents[1]  # Ray opens its own to everybody
    assert folder.name.startswith("edgefuse-")
    assert folder.stat().st_mode & 0o077 == 0


def listening(pids: set[int]) -> set[str]:
    """Return the addresses, as in `/proc/net/tcp`, at which processes listen."""
    inodes = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(file.readlink().name)
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and f"socket:[{parts[9]}]" in inodes:
                found.add(parts[1].partition(":")[0])
    return found


def test_it_ends_whole_after_the_last_answer(served: Served) -> None:
    """The last test of this module: what was admitted is answered, and no process and no folder stays."""
    ours, folder = below(served.process.pid), Path(told_to_rays(served, "session-dir")).parents[1]
    data, connections = json.dumps(BODY).encode(), []
    for _ in range(8):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("POST", "/v1/predict", data, {"Content-Type": "application/json"})
        connections.append(connection)
    assert served.predict().status == 200  # what was sent before it has come in
    served.process.send_signal(signal.SIGTERM)
    statuses = []
    for connection in connections:
        answer = connection.getresponse()
        statuses.append((answer.status, answer.read())[0])
        connection.close()
    served.process.communicate(timeout=120)
    assert set(statuses) == {200}
    complaints = served.bundle.with_name("complaints").read_text()
    assert served.process.returncode == 0, complaints
    assert "graceful_shutdown" not in complaints  # an error that is none
    until(lambda: not [pid for pid in ours if Path(f"/proc/{pid}").exists()])
    assert not folder.exists()
