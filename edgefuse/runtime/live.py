"""The pipeline of a process that runs for long, and the one place where another takes its place."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.bundle.spec import Modality, ModelSpec, Output
from edgefuse.errors import BundleError, EdgefuseError, InputError
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.forks import Guard
from edgefuse.runtime.opened import OpenBundle
from edgefuse.runtime.pipeline import Pipeline

if TYPE_CHECKING:
    from edgefuse.runtime.control import Control

_log = logging.getLogger(__name__)


class _Running(NamedTuple):
    """What is answered with: replaced as a whole."""

    pipeline: Pipeline
    path: Path
    digest: str

    def __str__(self) -> str:
        return f"{self.path} (digest {self.digest[:12]}, rung '{self.pipeline.rung.name}')"


class Live:
    """Holds the pipeline of a running process, so that another bundle or rung can take its place between two calls.

        live = edgefuse.Live("assistant.edgefuse")
        live.on_signal()                      # SIGHUP: open the same path again
        live.listen("/run/assistant.sock")    # `edgefuse swap /run/assistant.sock NEW.edgefuse`
        while ...:
            live.pipeline(audio=heard)

    `pipeline` is always whole. Ask for it at each call: a call that is under way ends on the one that it began with,
    which is freed after the last of them, so that none is lost. What fails, changes nothing. Each change and each
    refusal is logged.

    Safe for calls from several threads: a change of rungs does not wait for a bundle that is being opened, and calls
    wait for neither. While a bundle takes another's place, both are in memory. In a child process that is forked
    later it only says so, as pipelines do.

    Args:
        path: the bundle's folder or `.edgefuse` file.
        digest: refuse every bundle but the one with this digest, until `swap` names another one: what is pinned is
            never replaced by what is not.
        rung: the operating point; the bundle's default if None.
        backend: what runs the files; the manifest's choice if None.
        threads: how many threads inference may use.
        cache: keep the features of unchanged modalities.
        spinning: let idle threads burn a core for lower latency.
        check: raises an `EdgefuseError` where a bundle is not to be taken; `edgefuse.measure.golden.require` asks for
            its golden vectors on this device.

    Raises:
        BundleError, BackendError, MissingExtraError, InputError: as for `edgefuse.load`, or what `check` raises.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        digest: str | None = None,
        *,
        rung: str | None = None,
        backend: str | None = None,
        threads: int = 1,
        cache: bool = True,
        spinning: bool = False,
        check: Callable[[Bundle], object] | None = None,
    ) -> None:
        self._swapping, self._changing = Guard(), Guard()  # in this order, if both
        self._backend, self._cache, self._check = backend, cache, check
        self._options = SessionOptions(threads=threads, spinning=spinning)
        self._pinned, self._rung = digest, rung
        self._ending = ExitStack()
        self._ended = False
        self._running = self._opened(path, digest, rung, None)

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline to call now; `swap` and `at` put another in its place."""
        return self._running.pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Pipeline) -> None:
        """Go on at the rung of what `live.pipeline.at` gave, of the bundle that runs by now: it may have come since."""
        with self._changing.lock:
            self.at(_known(self.pipeline, pipeline.rung.name))

    @property
    def path(self) -> Path:
        """Of the bundle that is answered with."""
        return self._running.path

    @property
    def digest(self) -> str:
        """Of the bundle that is answered with."""
        return self._running.digest

    def swap(self, path: str | PathLike[str] | None = None, digest: str | None = None) -> None:
        """Put a bundle in the place of the one that runs, or refuse it and change nothing.

        Before it is taken, every file of it was read and held against its hash, its modalities and outputs are those of
        the one that runs, `check` has not refused it, and the runtime has opened its files. It runs at the rung of the
        name that was asked for last, if it has one, and else at its default.

        Args:
            path: the bundle's folder or `.edgefuse` file; that of the one that runs if None.
            digest: that it must have, and every later one until another is named; the one pinned before if None.

        Raises:
            BundleError: it is damaged, not the pinned one, or of a model that takes or gives something else.
            BackendError, MissingExtraError: the runtime does not open it, or this process was forked.
            InputError: this is closed.
        """
        self._swapping.check()
        with self._swapping.lock:
            rung, pinned = self._rung, self._pinned if digest is None else digest
            try:
                after = self._opened(self.path if path is None else path, pinned, rung, self.pipeline.manifest.model)
                with self._changing.lock:
                    self._check_open()
                    if self._rung != rung:  # it was changed meanwhile
                        after = after._replace(pipeline=after.pipeline.at(_known(after.pipeline, self._rung)))
                    before, self._running, self._pinned = self._running, after, pinned
            except EdgefuseError as error:  # nothing of it is kept: whoever keeps the record would keep a pipeline
                _log.warning("%s goes on: %s", str(self._running), str(error))
                raise
        _log.info("%s takes the place of %s", str(after), str(before))

    def at(self, rung: str | None) -> None:
        """Go on at another rung of the same bundle, or fail and change nothing; see `Pipeline.at`.

        Args:
            rung: its name, also for bundles that come later and have such a rung; the bundle's default if None.

        Raises:
            BundleError, BackendError: as for `Pipeline.at`.
            InputError: this is closed.
        """
        self._changing.check()
        with self._changing.lock:
            self._check_open()
            before = self._running
            self._running = after = before._replace(pipeline=before.pipeline.at(rung))
            self._rung = rung
        _log.info("%s takes the place of rung '%s'", str(after), before.pipeline.rung.name)

    def on_signal(self) -> None:
        """From now on, open the same path again at each SIGHUP, with the pinned digest if there is one.

        The work is done by a thread: a signal only wakes it. Signals that come while it works are one. What is refused
        is logged, and the old bundle stays.

        Raises:
            InputError: Windows has no such signal, this is not the main thread, or this is closed.
        """
        self._check_open()
        if sys.platform == "win32":
            raise InputError(
                "Windows has no signal SIGHUP", fix="call live.swap() where the process learns of a bundle"
            )
        if threading.current_thread() is not threading.main_thread():
            raise InputError("signals are handled in the main thread alone", fix="call on_signal() there")
        asked: SimpleQueue[bool] = SimpleQueue()  # its `put` may interrupt itself, as handlers do; no lock may
        thread = threading.Thread(target=self._reload, args=(asked,), name="edgefuse-reload", daemon=True)
        thread.start()
        before = signal.signal(signal.SIGHUP, lambda *_: asked.put(True))
        self._ending.callback(_stop, thread, asked)
        self._ending.callback(_restore, before)

    def listen(self, path: str | PathLike[str]) -> Control:
        """Take bundles from `edgefuse swap` over a unix socket that only this user may open; see `control`.

        Args:
            path: of the socket, which goes when this is closed.

        Raises:
            InputError: there is something else, the system does not allow it, or this is closed.
        """
        self._check_open()
        from edgefuse.runtime.control import Control

        return self._ending.enter_context(Control(self, path))

    def close(self) -> None:
        """End `on_signal` and `listen`, and close the pipeline; closing twice is harmless."""
        self._ending.close()
        with self._changing.lock:
            self._ended = True
            self._running.pipeline.close()

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(
        self, path: str | PathLike[str], digest: str | None, rung: str | None, model: ModelSpec | None
    ) -> _Running:
        """Open and check a bundle; of a later one than the first, `model` is what it must be like."""
        with ExitStack() as stack:
            bundle = stack.enter_context(open_bundle(path, digest=digest))
            if model is not None:
                _check_alike(bundle, model)
            bundle.verify()
            if self._check is not None:
                self._check(bundle)
            opened = OpenBundle(bundle, self._backend, self._options, cache=self._cache, owned=True)
            pipeline = Pipeline(opened, rung if model is None else _known(bundle, rung))
            stack.pop_all()
        return _Running(pipeline, bundle.path.absolute(), bundle.digest)

    def _check_open(self) -> None:
        if self._ended:
            raise InputError("this is closed", got="edgefuse.Live", fix="make another one")

    def _reload(self, asked: SimpleQueue[bool]) -> None:
        """Open the same path again, once for all that asked, until one says no."""
        while asked.get():
            try:
                while asked.get_nowait():
                    pass
                return
            except Empty:
                self.try_swap()

    def try_swap(self, path: str | None = None, digest: str | None = None) -> str:
        """Swap, and return why not, or nothing; for threads, which nothing may end.

        Args:
            path: as for `swap`.
            digest: as for `swap`.
        """
        try:
            self.swap(path, digest)
        except EdgefuseError as error:
            return str(error)
        except Exception:  # noqa: BLE001 - the thread that asked goes on, and the old bundle does
            _log.exception("%s goes on: a bug of ours, or of a runtime", str(self._running))
            return "the bundle cannot be opened: the log of the process says why."
        return ""


def _known(found: Bundle | Pipeline, rung: str | None) -> str | None:
    """Return the name of a rung if a bundle has it, and else None: its default."""
    return rung if rung in {one.name for one in found.manifest.rungs} else None


def _check_alike(bundle: Bundle, running: ModelSpec) -> None:
    """Refuse a bundle whose model takes or gives anything else than the one that runs, figures apart.

    Raises:
        BundleError: with the first difference.
    """
    model = bundle.manifest.model
    difference = _difference("modality", model.modalities, running.modalities) or _difference(
        "output", model.outputs, running.outputs
    )
    if difference is not None:
        what, got, expected = difference
        raise BundleError(
            f"the bundle '{bundle.path}' is refused: {what} as in the bundle that runs",
            got=got,
            expected=expected,
            fix="compile a model with the same modalities and outputs, or start the process again with this one",
        )


def _difference(
    kind: str, found: tuple[Modality, ...] | tuple[Output, ...], running: tuple[Modality, ...] | tuple[Output, ...]
) -> tuple[str, object, object] | None:
    """Return the first difference of modalities or outputs: what is not as it was, what it is, what it was."""
    names, before = [one.name for one in found], [one.name for one in running]
    if names != before:
        return f"its {'modalities' if kind == 'modality' else 'outputs'} are not", ", ".join(names), ", ".join(before)
    for now, then in zip(found, running, strict=True):
        if type(now) is not type(then):
            return f"the {kind} '{now.name}' is not", type(now).__name__, type(then).__name__
        for field in now.__struct_fields__:
            if field != "metric" and getattr(now, field) != getattr(then, field):
                return f"'{field}' of the {kind} '{now.name}' is not", getattr(now, field), getattr(then, field)
    return None


def _stop(thread: threading.Thread, asked: SimpleQueue[bool]) -> None:
    asked.put(False)
    thread.join()


def _restore(handler: Any) -> None:
    """Give SIGHUP back; elsewhere than in the main thread that cannot be done, and nobody listens any more."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, handler or signal.SIG_DFL)
