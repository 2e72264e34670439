"""The page that a browser is given: its files, and what it does in headless Chromium with fake devices."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import threading
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from edgefuse.runtime.generating import Generation
from edgefuse.runtime.live import Live
from edgefuse.serve.http.app import PAGE
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.service import HttpService
from edgefuse.serve.queue import Queue
from tests.serve import voice
from tests.serve.senses import BRIGHT, SECONDS, senses

Serving = Callable[..., Any]
TOKEN = "a-token-of-the-tests-0123456789"
CHROMIUM = shutil.which("chromium")
DEVICES = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
PATIENCE_MS = 120_000
"""A busy machine is no failure."""
FULL: dict[str, Any] = {"error": {"status": 429, "message": "the queue is full. Fix: try again in 2 s."}}
# What a page would do that were another's: run code and styles that stand in it, and ask somebody else.
FORBIDDEN = """async () => {
    const refused = new Set();
    const all = new Promise((done) => addEventListener('securitypolicyviolation', (event) => {
        refused.add(event.effectiveDirective);
        if (refused.size === 3) done();
    }));
    document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.ran = true' }));
    document.body.insertAdjacentHTML('beforeend', '<p style="color: red">x</p>');
    const sent = await fetch('http://127.0.0.1:1/').then(() => true, () => false);
    await Promise.race([all, new Promise((done) => setTimeout(done, 60000))]);
    return { refused: [...refused].sort(), ran: window.ran === true, sent };
}"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Run Chromium, whose microphone hears a tone of half the full scale."""
    if CHROMIUM is None:
        pytest.skip("the page was not looked at in a browser: there is no chromium (apt-get install chromium)")
    home = tmp_path_factory.mktemp("chromium")
    tone = (16_000 * np.sign(np.sin(np.arange(48_000) * 2 * np.pi * 440 / 48_000))).astype("<i2")
    with wave.open(str(home / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(tone.tobytes())
    heard = f"--use-file-for-fake-audio-capture={home / 'tone.wav'}"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*DEVICES, heard, "--disable-dev-shm-usage"],
            env={**os.environ, "HOME": str(home)},
            timeout=PATIENCE_MS,
        )
        yield started
        started.close()


class Visit(NamedTuple):
    """A page that is open, the addresses that it asked, and what it complained of."""

    page: Page
    asked: list[str]
    complaints: list[str]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[[str], Visit]]:
    """Open the page of a service on a narrow screen; it may complain of refused requests alone, and ask nobody else."""
    expect.set_options(timeout=PATIENCE_MS)
    context = browser.new_context(viewport={"width": 360, "height": 740})
    context.set_default_timeout(PATIENCE_MS)
    visits: list[tuple[str, Visit]] = []

    def opened(url: str) -> Visit:
        visited = Visit(context.new_page(), [], [])
        visits.append((url, visited))

        def note(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and "the server responded with a status of 4" not in message.text:
                visited.complaints.append(message.text)

        visited.page.on("request", lambda request: visited.asked.append(request.url))
        visited.page.on("console", note)
        visited.page.on("pageerror", lambda error: visited.complaints.append(str(error)))
        visited.page.goto(url)
        return visited

    yield opened
    context.close()
    for url, visited in visits:
        assert visited.complaints == []
        assert [one for one in visited.asked if not one.startswith((f"{url}/", "blob:", "data:"))] == []


def field(page: Page, name: str) -> Any:
    return page.locator(".field", has=page.get_by_text(name, exact=True))


def picture() -> str:
    """Return a white picture, as PNG in base64."""
    made = io.BytesIO()
    Image.new("L", (32, 32), 255).save(made, "PNG")
    return base64.b64encode(made.getvalue()).decode()


def dropped(page: Page, name: str, kind: str, data: str) -> None:
    """Drop a file on the page, beside its fields, which are there when the model is known."""
    expect(page.locator(".field").first).to_be_visible()
    file = page.evaluate_handle(
        """([name, type, data]) => {
            const given = new DataTransfer();
            given.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name, { type }));
            return given;
        }""",
        [name, kind, data],
    )
    page.locator("h1").dispatch_event("drop", {"dataTransfer": file})


def added(page: Page, output: int) -> dict[str, str]:
    """Return what each input added to an output, as its last table tells it: the last column by the first one."""
    found = page.locator(".output").nth(output).locator("table").last.locator("tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td").last.inner_text() for row in found}


def test_a_picture_a_voice_and_words_are_answered(
    serving: Serving, tmp_path: Path, visit: Callable[[str], Visit]
) -> None:
    client = serving(bundle=senses(tmp_path / "senses"), answer_s=120)
    page, asked, _ = visit(client.service.url)
    dropped(page, "white.png", "image/png", picture())
    expect(field(page, "image").locator("img")).to_be_visible()
    field(page, "audio").get_by_role("button", name="Record").click()
    expect(field(page, "audio").locator("audio")).to_be_visible()  # it ends at the length of the model's clip
    page.get_by_label("text", exact=True).fill("please stop")
    assert not [one for one in asked if "predict" in one]
    with page.expect_request("**/v1/predict*") as sent:
        page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("What it took")).to_be_visible()
    inputs = json.loads(sent.value.post_data or "")["inputs"]
    with wave.open(io.BytesIO(base64.b64decode(inputs["audio"]))) as sound:
        assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)
        assert sound.getnframes() == pytest.approx(SECONDS * sound.getframerate(), abs=1)
    expect(page.locator(".said").first).to_contain_text(BRIGHT)
    assert page.locator("#answer i:not(.bar i)").count() == 0
    to_class = added(page, 0)
    assert list(to_class) == ["image", "audio", "text", "together"]
    assert float(to_class["image"]) > 10
    assert float(added(page, 1)["seen"]) > 0
    levels = page.locator(".output").nth(2).locator("table").first.locator("td").all_inner_texts()
    assert float(levels[0]) == 1
    assert 0 < float(levels[1]) < 1  # of the tone
    expect(page.locator("#status")).to_contain_text("From image, audio, text")
    expect(page.locator("dl")).to_contain_text(client.live.digest[:12])
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    other = page.context.new_page()
    other.goto(client.service.url)
    refused = ["connect-src", "script-src-elem", "style-src-attr"]
    assert other.evaluate(FORBIDDEN) == {"refused": refused, "ran": False, "sent": False}


def test_the_camera_takes_a_picture_and_what_was_given_can_be_left_out(
    serving: Serving, tmp_path: Path, visit: Callable[[str], Visit]
) -> None:
    page = visit(serving(bundle=senses(tmp_path / "senses"), answer_s=120).service.url).page
    seen = field(page, "image")
    seen.get_by_role("button", name="Use the camera").click()
    seen.get_by_role("button", name="Take the picture").click()
    expect(seen.locator("img")).to_be_visible()
    page.get_by_label("text", exact=True).fill("please wait")
    page.get_by_label("text", exact=True).press("Enter")
    expect(page.locator("#status")).to_contain_text("From image, text")
    seen.get_by_role("button", name="Remove").click()
    page.get_by_label("tell what each input added").uncheck()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#status")).to_contain_text("From text")
    expect(page.locator("#answer h3")).to_have_text(["What it took"])


def test_who_has_the_token_is_served_and_what_is_wrong_is_told(serving: Serving, visit: Callable[[str], Visit]) -> None:
    page = visit(serving(token=TOKEN, answer_s=120).service.url).page
    given = page.get_by_label("Token", exact=True)
    expect(given).to_be_focused()
    expect(page.locator("#error")).to_be_hidden()
    given.fill("another")
    given.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The token is missing or wrong")
    given.fill(TOKEN)
    page.get_by_role("button", name="Go on").click()
    ask = page.get_by_role("button", name="Ask")
    ask.click()
    expect(page.get_by_role("alert")).to_contain_text("no modality is present")
    steps = partial(dropped, page, "steps.json", "application/json")
    steps(base64.b64encode(b"[[[1, 2, 3]]]").decode())
    ask.click()
    expect(page.locator("#status")).to_contain_text("From motion")
    expect(page.locator("#error")).to_be_hidden()
    for data, sentence in ((b"[[[1, 2], [1]]]", "'motion' is no array"), (b"[", "holds no JSON")):
        steps(base64.b64encode(data).decode())
        ask.click()
        expect(page.get_by_role("alert")).to_contain_text(sentence)
        expect(page.locator("#answer")).to_be_empty()
    steps(base64.b64encode(b"[[[1, 2, 3]]]").decode())
    page.route("**/v1/predict*", lambda route: route.fulfill(status=429, json=FULL, headers={"Retry-After": "2"}))
    ask.click()
    expect(page.get_by_role("alert")).to_have_text(FULL["error"]["message"])
    assert (
        page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])") == '[{},{},""]'
    )


def test_who_has_no_mouse_keeps_the_place(serving: Serving, tmp_path: Path, visit: Callable[[str], Visit]) -> None:
    page = visit(serving(bundle=senses(tmp_path / "senses"), answer_s=120).service.url).page
    page.get_by_label("text", exact=True).fill("please stop")
    ask = page.get_by_role("button", name="Ask")
    ask.press("Enter")
    expect(page.get_by_text("What it took")).to_be_visible()
    expect(ask).to_be_focused()
    seen = field(page, "image")
    seen.get_by_role("button", name="Use the camera").press("Enter")
    take = seen.get_by_role("button", name="Take the picture")  # the same one
    expect(take).to_be_enabled()
    take.press("Enter")
    expect(seen.get_by_role("button", name="Use the camera")).to_be_focused()
    expect(seen.locator("img")).to_be_visible()
    seen.get_by_role("button", name="Remove").press("Enter")
    expect(seen.locator("input")).to_be_focused()


def test_numbers_are_told_as_exactly_as_the_model_gives_them(
    serving: Serving, tmp_path: Path, visit: Callable[[str], Visit]
) -> None:
    page = visit(serving(bundle=senses(tmp_path / "senses")).service.url).page
    told = page.evaluate(
        """async () => {
            const { SHOWN } = await import('./page/answers.js');
            const values = [123456, -2.5, 0.123456, 1234567, -0.0000001234567];
            const output = { name: 'values', labels: ['a', 'b', 'c', 'd', 'e'] };
            return SHOWN.values(output, { outputs: { values: [values] } }).words;
        }"""
    )
    assert told == "a 123456, b −2.5, c 0.1235, d 1234567, e −1.235e−7"


class Paused:
    """A pipeline, and the source that has it, whose generations wait after their first token."""

    def __init__(self, live: Live) -> None:
        self._live, self.go_on = live, threading.Event()

    @property
    def pipeline(self) -> Any:
        return self

    @contextmanager
    def generate(self, *arguments: Any, **raw: Any) -> Iterator[Any]:
        with self._live.pipeline.generate(*arguments, **raw) as generation:
            yield _Waiting(generation, self.go_on)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._live.pipeline, name)


class _Waiting(NamedTuple):
    generation: Generation
    go_on: threading.Event

    def __iter__(self) -> Iterator[Any]:
        for token in self.generation:
            yield token
            self.go_on.wait()

    @property
    def text(self) -> str:
        return self.generation.text


def test_tokens_are_shown_as_they_come_until_they_are_stopped(tmp_path: Path, visit: Callable[[str], Visit]) -> None:
    with Live(voice.replies(tmp_path / "replies.edgefuse")) as live:
        source = Paused(live)
        queue = Queue(source, 2)
        try:
            with HttpService("127.0.0.1:0", queue, source, Limits(threads=4, answer_s=120)) as service:
                page, _, complaints = visit(service.url)
                page.get_by_label("text", exact=True).fill("please")
                ask = page.get_by_role("button", name="Ask")
                ask.click()
                expect(page.locator(".text")).to_have_text("turn")
                page.get_by_role("button", name="Stop").click()
                expect(page.locator("#status")).to_have_text("Stopped.")
                source.go_on.set()
                ask.click()
                expect(page.locator(".text")).to_have_text("turn on the light")
                expect(page.locator("#status")).to_contain_text("tokens")
                expect(page.locator("dl")).to_contain_text("per token")
                source.go_on.clear()
                ask.click()
                expect(page.locator(".text")).to_have_text("turn")
                for one in list(service._server._open):
                    with suppress(OSError):  # what was stopped before may have ended
                        one.arrived.shutdown(socket.SHUT_RDWR)
                expect(page.get_by_role("alert")).to_have_text("The answer broke off.")
                page.close()
                complaints.clear()
                source.go_on.set()
        finally:
            source.go_on.set()
            queue.close()


def test_the_files_of_the_page_are_given_to_everyone_and_no_others(serving: Serving) -> None:
    client = serving(token=TOKEN)
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    names = [path.name for path in PAGE.iterdir()]
    assert {"index.html", "page.css", "page.js", "recorder.js"} <= set(names)
    for path, name in (("/", "index.html"), *((f"/page/{name}", name) for name in names)):
        answer = client.ask("GET", path)
        assert (answer.status, answer.body) == (200, (PAGE / name).read_bytes())
        assert answer.fields["Content-Type"].partition(";")[0] == kinds[Path(name).suffix]
        assert (answer.fields["Cache-Control"], answer.fields["X-Content-Type-Options"]) == ("no-cache", "nosniff")
        assert answer.fields["Content-Security-Policy"].startswith("default-src 'none'")
        assert client.ask("GET", path, If_None_Match=answer.fields["ETag"]).status == 304
        head = client.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert int(head.fields["Content-Length"]) == len(answer.body)
    for path in (
        *("/page", "/page/", "/page/..", "/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py"),
        *("/page/page.js/", "/page/%2fetc%2fpasswd", "/page/..%5capp.py", "/page/%00.js", "/page/.js", "/page/x.js"),
    ):
        assert client.ask("GET", path, Authorization=f"Bearer {TOKEN}").status == 404
    assert client.ask("GET", "/v1/model").fields["Cache-Control"] == "no-store"
    described = client.ask("GET", "/openapi.json", Authorization=f"Bearer {TOKEN}").json["paths"]
    assert not [path for path in described if path == "/" or path.startswith("/page")]
