"""A view of an open bundle at a rung: raw inputs in, a prediction out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING

from edgefuse.bundle.reader import Bundle, is_pinned, open_bundle
from edgefuse.bundle.spec import largest
from edgefuse.errors import BundleError, InputError, shown
from edgefuse.runtime.backends.backend import Array, SessionOptions
from edgefuse.runtime.graph import Graph
from edgefuse.runtime.graph import Inputs as Inputs
from edgefuse.runtime.incremental import Encoded, Incremental, streamed_at
from edgefuse.runtime.opened import OpenBundle
from edgefuse.runtime.prediction import Prediction

if TYPE_CHECKING:
    from edgefuse.runtime.generating import Generation
    from edgefuse.runtime.generation.config import GenerationConfig
    from edgefuse.runtime.stream.feed import Feed
    from edgefuse.runtime.stream.holder import Ladder
    from edgefuse.runtime.stream.stream import Stream


class Pipeline:
    """A rung of an open bundle, ready to predict; made by `edgefuse.load`, and by `at` for the other rungs.

    Calls from several threads are safe: preprocessing runs side by side, inference one call after another over all
    pipelines of the bundle, so that they never use more threads than it was given. It is a context manager that closes
    itself; what no other pipeline of the bundle uses is then freed. The counters of `cache`, which all of them share,
    tell how often it helped. In a child process that is forked later it only says so: inference libraries do not
    survive a fork (`forks`).

    To change the rung between two predictions, put another pipeline in the place of this one and let go of it:

        self.pipeline = self.pipeline.at("fast")

    A call that is under way ends on the old one, which is freed after the last of them. Nothing is lost. (`close`
    frees at once, and a call that comes later is told so.)
    """

    def __init__(self, opened: OpenBundle, rung: str | None) -> None:
        self.manifest = manifest = opened.manifest
        self.rung, self.digest = manifest.rung(rung), opened.digest
        self.cache = opened.cache
        self._opened: OpenBundle | None = opened
        self._graph: Graph | None = opened.open(self.rung)
        self._guard = opened.guard
        self._turns = opened.turns
        self.preprocessors = opened.preprocessors
        self._required = tuple(m.name for m in manifest.model.modalities if not m.optional)
        lengths = (m for m in manifest.model.modalities if m.length)
        self._lengths = [(m.name, f"{m.name}.length", largest(m.tensors[0].shape[1])) for m in lengths]

    def __call__(self, /, **raw: object) -> Prediction:
        """Predict from raw inputs, one keyword per modality.

        Args:
            **raw: a path, bytes, an array, a PIL image, a string: what the modality's preprocessing takes, or the
                `encoded` of an `Incremental`. A modality that is left out, or None, is absent.

        Raises:
            InputError: if an input is wrong, a required modality is absent, or nothing is present.
            MissingExtraError: if an input needs a media library that is not installed.
            BackendError: if a runtime cannot run a stage, or the pipeline was opened before this process was forked.
        """
        self._guard.check()
        return Prediction(outputs=self.infer(self.preprocess(**raw)), spec=self.manifest.model.outputs)

    def batch(self, items: Iterable[Mapping[str, object]]) -> list[Prediction]:
        """Predict for several items; every answer is the one that a call with this item alone gives.

        Stage files are made for one item (the bundle format fixes their batch to 1), so the items run one after the
        other, and calls of other threads may come between two of them. Activations that are quantized per run
        (dynamic schemes) take their scales from one item, too: in a common tensor they would depend on the others.

        All items are preprocessed before the first one runs, and their tensors are in memory together: a bad item is
        told before any work was done.

        Args:
            items: raw inputs by modality, as the keywords of a call.

        Raises:
            InputError: if an item is wrong; its number, from 0, stands at the head of this and every other error.
            MissingExtraError: if an input needs a media library that is not installed.
            BackendError: if a runtime cannot run a stage, or the bundle was opened before this process was forked.
        """
        from edgefuse.runtime.batch import each, keywords  # which other programs do without

        self._guard.check()
        prepared = each(items, lambda item: self.preprocess(**keywords(item)))
        spec = self.manifest.model.outputs
        return [Prediction(outputs=outputs, spec=spec) for outputs in each(prepared, self.infer)]

    def at(self, rung: str | None) -> Pipeline:
        """Return a pipeline at another rung of the same open bundle; this one stays as it is.

        Only files that no pipeline of the bundle has open are read and opened, beside the calls of others, so both
        rungs are in memory until this one is closed or let go of. If that fails, nothing has changed.

        Args:
            rung: its name; the bundle's default if None.

        Raises:
            BundleError: if there is no such rung, or its files cannot be read any more as they were verified.
            BackendError: if the runtime cannot open a file, or the bundle was opened before this process was forked.
            InputError: if this pipeline is closed.
        """
        opened = self._opened
        if opened is None:
            raise _closed()
        return Pipeline(opened, rung)

    def preprocess(self, /, **raw: object) -> Inputs:
        """Turn raw inputs into tensors: the first half of a call."""
        self._guard.check()  # a tokenizer may have been opening when the process was forked
        values: dict[str, Array] = {}
        present: list[str] = []
        encoded: list[str] = []
        given = 0
        for name, preprocessor in self.preprocessors.items():
            if name in raw:
                given += 1
                one = raw[name]
                if one is None:
                    continue
                if isinstance(one, Encoded) and one.modality == name:
                    values.update(one.values)
                    encoded.append(name)
                else:
                    values.update(preprocessor(one))
                present.append(name)
        if given != len(raw):
            raise self._unknown(next(name for name in raw if name not in self.preprocessors))
        missing = [name for name in self._required if name not in present]
        if missing or not present:
            raise self._absent(missing, present)
        return Inputs(values=values, present=tuple(present), encoded=tuple(encoded))

    def infer(self, inputs: Inputs) -> dict[str, Array]:
        """Return the outputs by name for preprocessed inputs: the second half of a call."""
        self._guard.check()
        self._check(inputs)
        with self._turns, self._guard.lock:
            if self._graph is None:
                raise _closed()
            return self._graph.run(inputs.values, inputs.present, inputs.encoded, inputs.kept)

    def _check(self, inputs: Inputs) -> None:
        """Refuse what was not preprocessed here, which may say anything."""
        if not isinstance(inputs, Inputs):
            raise InputError("these are no inputs", got=type(inputs).__name__, expected="what `preprocess` gives")
        for name, key, steps in self._lengths:
            given = inputs.values.get(key)
            if given is not None and given.size == 1 and name in inputs.present and not 1 <= given.item() <= steps:
                raise InputError(f"the length of '{name}' is out of range", got=given.item(), expected=f"1 to {steps}")

    def explain(self, /, **raw: object) -> Prediction:
        """Predict as a call does, and say in `contributions` what each optional modality added.

        Encoders run once; what reads several modalities runs once more for each optional one that is given, and once
        without all of them (`contributions`). Of a model of one stage that is the whole model.

        Args:
            **raw: as for a call.

        Raises:
            InputError: as for a call, or the model makes one token after the other.
            MissingExtraError, BackendError: as for a call.
        """
        return self.explained(self.preprocess(**raw))

    def explained(self, inputs: Inputs, /) -> Prediction:
        """Return what `explain` does, of inputs that are preprocessed, as `infer` does of a call.

        Raises:
            InputError, BackendError: as for `explain`.
        """
        from edgefuse.runtime.contributions import explained  # which most programs do without

        self._guard.check()
        self._check(inputs)
        model = self.manifest.model
        with self._calling() as graph:
            outputs, contributions = explained(graph, inputs, model)
        return Prediction(outputs=outputs, spec=model.outputs, contributions=contributions)

    def generate(self, config: GenerationConfig | None = None, /, **raw: object) -> Generation:
        """Make tokens from raw inputs, one after the other: encoders and fusion run now, a step when it is asked for.

            for token in pipeline.generate(GenerationConfig(do_sample=True, top_p=0.9, seed=1), image="a.png"):
                ...

        Args:
            config: how tokens are chosen; greedily if None.
            **raw: as for a call.

        Raises:
            InputError: as for a call, if the model makes no tokens, or `config` asks for more than it can.
            MissingExtraError, BackendError: as for a call.
        """
        from edgefuse.runtime.generating import Generation  # which other models do without
        from edgefuse.runtime.generation.config import GenerationConfig

        self._guard.check()
        inputs = self.preprocess(**raw)
        with self._calling() as graph:
            decoder = graph.decoder
            if decoder is None:
                made = ", ".join(f"'{output.name}'" for output in self.manifest.model.outputs)
                raise InputError("this model makes no tokens one after the other", got=made, fix="call the pipeline")
            feeds = graph.before_decoder(inputs.values, inputs.present, inputs.encoded)
        return Generation(decoder, feeds, GenerationConfig() if config is None else config, self._calling)

    def stream(
        self,
        deadline_ms: float | None = None,
        *,
        clock: str | None = None,
        hop_s: float | None = 0.0,
        backlog: int = 8,
        feeds: Mapping[str, Feed] | None = None,
        ladder: Ladder | None = None,
    ) -> Stream:
        """Open a stream: timed inputs, and predictions as they come due.

            with pipeline.stream(hop_s=0.1) as stream:
                stream.push("audio", chunk, t)
                for answer in stream: ...

        Args:
            deadline_ms: from when a prediction is due to its answer; answers that took longer say so.
            clock: the modality at whose times predictions are due; see `Stream`.
            hop_s: of its time between two predictions; 0: at each push; None: when `predict` is called.
            backlog: predictions that may wait; the oldest of more are skipped.
            feeds: by modality how it comes in.
            ladder: decides at which rung the next prediction runs.

        Raises:
            InputError: if a setting does not fit the model, or this pipeline is closed.
            MissingExtraError: if sound has to be resampled, and soxr is not installed.
        """
        from edgefuse.runtime.stream.stream import Stream  # which other programs do without

        if self._opened is None:
            raise _closed()
        return Stream(_Held(self), deadline_ms, clock=clock, hop_s=hop_s, backlog=backlog, feeds=feeds, ladder=ladder)

    @property
    def streaming(self) -> tuple[str, ...]:
        """The modalities that can be encoded chunk by chunk at this rung; others are encoded as a whole each time."""
        return tuple(streamed_at(self.manifest.streamed or (), self.rung.name))

    def incremental(self, modality: str) -> Incremental:
        """Return what encodes a stream of a modality chunk by chunk, at this rung.

        Its states are those of the rung's files: another pipeline's, of another rung, begins anew.

        Args:
            modality: one of `streaming`.

        Raises:
            InputError: if it does not stream, or this pipeline is closed.
            BundleError, BackendError, MissingExtraError: as for `at`.
        """
        found = streamed_at(self.manifest.streamed or (), self.rung.name)
        if not isinstance(modality, str) or modality not in found:
            raise InputError(
                f"the modality '{shown(modality, 80)}' is not encoded chunk by chunk at the rung '{self.rung.name}'",
                expected=" or ".join(found) or "none of this bundle",
                fix="keep the last window of it, and give that to each call",
            )
        opened, one = self._opened, found[modality]
        if opened is None:
            raise _closed()
        return Incremental(one, self.preprocessors[modality], opened.steps(one, self.rung), self._calling)

    @contextmanager
    def _calling(self) -> Iterator[Graph]:
        """Hold the bundle's lock for one call of a runtime."""
        self._guard.check()
        with self._turns, self._guard.lock:
            if self._graph is None:
                raise _closed()
            with self._graph.flushed:
                yield self._graph

    def close(self) -> None:
        """Free what no other pipeline of the bundle uses; the last one closes it. Closing twice is harmless."""
        with self._guard.lock:
            helper = self._opened.helper if self._opened is not None else None
            self._graph = self._opened = None
        if helper is not None:
            helper.join()  # if this was the last one

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unknown(self, name: str) -> InputError:
        from difflib import get_close_matches

        known = list(self.preprocessors)
        close = get_close_matches(name, known, n=1)
        return InputError(
            f"this model has no modality '{name}'",
            expected=" or ".join(known),
            fix=f"did you mean {close[0]}=…" if close else None,
        )

    def _absent(self, missing: list[str], present: list[str]) -> InputError:
        known = list(self.preprocessors)
        return InputError(
            f"the modality '{missing[0]}' is required" if missing else "no modality is present",
            got=", ".join(present) or "nothing",
            expected=", ".join(missing) if missing else f"at least one of {', '.join(known)}",
            fix=f"pass {(missing or known)[0]}=…",
        )


@dataclass
class _Held:
    """The pipeline that a stream runs now."""

    pipeline: Pipeline


def _closed() -> InputError:
    return InputError("this pipeline is closed", fix="load the bundle again")


def load(
    path: str | PathLike[str] | Bundle,
    *,
    backend: str | None = None,
    threads: int = 1,
    rung: str | None = None,
    digest: str | None = None,
    cache: bool = True,
    spinning: bool = False,
) -> Pipeline:
    """Open a bundle on this device.

    Args:
        path: the bundle's folder or `.edgefuse` file, which stays open until the last pipeline is closed; or an open
            `Bundle`, which is for the caller to close, after the last change of rungs.
        backend: what runs the files; the manifest's choice if None, `null` to run nothing.
        threads: how many threads inference may use; at most as many as there are processors. With two or more, several
            new modalities are encoded side by side where that is faster, which is measured now, in at least six runs
            of the encoders and mostly less than a second.
        rung: the operating point; the bundle's default if None.
        digest: refuse the bundle unless this is its digest.
        cache: keep the features of unchanged modalities.
        spinning: let idle threads burn a core for lower latency.

    Raises:
        BundleError: if the bundle is damaged, or has no such rung or another digest.
        BackendError: if the runtime cannot open a file.
        MissingExtraError: if the runtime is not installed.
        InputError: if `threads` is not a number from 1 to the processors that this process may use.
    """
    options = SessionOptions(threads=threads, spinning=spinning)
    if isinstance(path, Bundle):
        if not is_pinned(path.digest, digest):
            raise BundleError("the bundle is not the one that was pinned", got=path.digest, expected=digest)
        return Pipeline(OpenBundle(path, backend, options, cache=cache, owned=False), rung)
    with ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(path, digest=digest))
        pipeline = Pipeline(OpenBundle(bundle, backend, options, cache=cache, owned=True), rung)
        stack.pop_all()
        return pipeline
