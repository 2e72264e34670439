"""The protocol of a backend, which opens and runs a stage's file, and the ports that all backends share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.manifest import Binding, BuildPlan
from edgefuse.errors import BackendError, InputError
from edgefuse.runtime.processor import Processor, checked_threads

Array: TypeAlias = npt.NDArray[np.generic]


class Session(Protocol):
    """An opened file. Not safe for concurrent calls of `run`.

    Every stage and rung that uses the file shares it, so what it gives depends on its feeds alone: a state comes in and
    goes out through ports. It may stay on the device meanwhile: what `run` returns for a port of kind `state` need not
    be a numpy array, and is handed to the next run unlooked-at. That is this session's as a rule; after a change of
    rungs it may be another's, which reads it as an array (`InputPorts`), so it has `__array__`.
    """

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: arrays under port names, of the types and shapes of the file's bindings.

        Returns:
            Arrays under port names. They stay valid and unchanged after the next call.
        """


@dataclass(frozen=True)
class SessionOptions:
    """How files are opened.

    Attributes:
        threads: per session; at most as many as there are processors.
        spinning: let idle threads burn a core for latency.
        plan: how to build an engine, for a backend that does.

    Raises:
        InputError: if there are not so many processors.
    """

    threads: int = 1
    spinning: bool = False
    plan: BuildPlan | None = None

    def __post_init__(self) -> None:
        checked_threads(self.threads)


class Backend(Protocol):
    """A runtime that opens files of one format.

    Attributes:
        name: that it is registered under.
        title: the runtime as its makers call it.
        suffix: the end of the names of files that it opens; empty where it reads none.
    """

    name: str
    title: str
    suffix: str

    def open(
        self, data: bytes, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...], options: SessionOptions
    ) -> Session:
        """Open a file from its bytes, or raise `BackendError`.

        Args:
            data: the file's bytes.
            inputs: each port's name, and its tensor, type and shape in the file.
            outputs: the same.
            options: threads, spinning, build plan.
        """

    def versions(self) -> dict[str, str]:
        """Return the versions of the runtime, by distribution name."""


@runtime_checkable
class Stepping(Protocol):
    """A session that can keep states in buffers from run to run, as a decoder's steps want it."""

    def bind(self, states: Sequence[tuple[str, str]], changed: Sequence[str]) -> Bound | None:
        """Return buffers for runs that follow each other; None if sizes are open.

        Args:
            states: (input, output) of each.
            changed: the inputs besides that change from run to run.
        """


class Bound(Protocol):
    """Buffers of a session for runs that follow each other."""

    def begin(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Copy feeds into the buffers, the first states among them; return the buffers, to be changed between runs.

        Raises:
            InputError: as of `InputPorts.arrange`.
        """

    def run(self) -> Mapping[str, Array]:
        """Run once, with each state as the run before left it, and return the outputs by port.

        The next run but one writes over them.
        """


@runtime_checkable
class EngineBuilder(Protocol):
    """A backend that can do what opening a file takes long for ahead, once per device.

    Attributes:
        build_seconds: how long one file may take, at the most.
    """

    build_seconds: float

    def prepare(
        self, data: bytes, inputs: tuple[Binding, ...], options: SessionOptions
    ) -> Literal["built", "known", ""]:
        """Build what `open` needs of a file and keep it, unless it is known; empty where there is nothing to build.

        Args:
            data: the file's bytes.
            inputs: each port's name, and its tensor, type and shape in the file.
            options: threads and build plan.
        """


@runtime_checkable
class StandIn(Protocol):
    """A backend that can take the place of a device's runtime, to check files where there is no such device.

    Attributes:
        device: that the runtime needs, in the words of reports: `GPU`.
    """

    device: str

    @property
    def stand_in(self) -> str:
        """What runs files in its place (times then say nothing about the device); empty where the device is there."""


@dataclass(frozen=True)
class Operator:
    """An operator as a runtime runs it.

    Attributes:
        kind: its type, as the runtime calls it.
        macs: multiplications of one run; 0 where nothing is multiplied or the sizes are not told.
        elsewhere: where it runs instead of where it was asked to; empty if it runs there.
    """

    kind: str
    macs: int = 0
    elsewhere: str = ""


@runtime_checkable
class Placing(Protocol):
    """A backend that tells where the operators of a file really run."""

    def operators(
        self,
        data: bytes,
        inputs: tuple[Binding, ...],
        outputs: tuple[Binding, ...],
        feeds: Mapping[str, Array],
        options: SessionOptions,
    ) -> tuple[Operator, ...]:
        """Open and run a file, and return its operators, in the order in which the runtime lists them.

        Args:
            data: the file's bytes.
            inputs: bindings of its ports.
            outputs: bindings of its ports.
            feeds: arrays by port, batch first.
            options: of the session.

        Raises:
            BackendError: if the file cannot be opened or run, or this version of the runtime does not tell.
        """


@runtime_checkable
class Saturating(Protocol):
    """A backend whose int8 arithmetic is not exact on every CPU."""

    def saturates(self, scheme: str, cpu: Processor) -> bool:
        """Return whether sums of int8 products are clipped; False where the CPU's features are not known.

        Args:
            scheme: of the file, as the manifest spells it.
            cpu: that runs it.
        """


@runtime_checkable
class Describing(Protocol):
    """A backend with more to say about its installation than versions: `edgefuse doctor` shows it."""

    def about(self) -> dict[str, str]:
        """Return properties of the installed runtime, by name."""


class InputPorts:
    """Turns feeds by port into arrays by tensor name.

    A feed that has the type and shape of its binding costs three comparisons. One that is smaller than a fixed size of
    the file (after the batch) is padded with zeros: that is how a variable input runs in a file of fixed shapes. Sizes
    of -1 in a binding take anything.
    """

    def __init__(self, bindings: tuple[Binding, ...]) -> None:
        self._plan = [(b.port, b.tensor, np.dtype(b.dtype), b.shape) for b in bindings]

    @property
    def tensors(self) -> dict[str, str]:
        """The names that the file gives them, by port."""
        return {port: tensor for port, tensor, *_ in self._plan}

    def arrange(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the arrays by the names that the file gives them.

        Raises:
            InputError: if a feed is missing or unknown, or has the wrong type or shape.
        """
        if len(feeds) != len(self._plan):
            raise self._wrong_names(feeds)
        arranged: dict[str, Array] = {}
        for port, tensor, dtype, shape in self._plan:
            value = feeds.get(port)
            if value is None:
                raise self._wrong_names(feeds)
            if not isinstance(value, np.ndarray):
                value = np.asarray(value)  # a state that another session left on its device
            if value.shape != shape or value.dtype != dtype:
                value = _fit(port, value, dtype, shape)
            arranged[tensor] = value
        return arranged

    def _wrong_names(self, feeds: Mapping[str, Array]) -> InputError:
        expected = ", ".join(port for port, *_ in self._plan)
        return InputError("the feeds of a stage do not match its inputs", got=", ".join(feeds), expected=expected)


def _fit(port: str, value: Array, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
    """Return the value padded to the fixed sizes of a shape, or say why that is impossible."""
    if value.dtype != dtype:
        raise InputError(f"the input '{port}' has the wrong type", got=value.dtype, expected=dtype)
    target = tuple(
        size if wanted < 0 else wanted for size, wanted in zip(value.shape, shape, strict=False)
    )  # a shape of another rank is refused below
    fits = len(value.shape) == len(shape) and all(
        size == wanted or (axis > 0 and size < wanted)
        for axis, (size, wanted) in enumerate(zip(value.shape, target, strict=True))
    )
    if not fits:
        raise InputError(
            f"the input '{port}' has the wrong shape", got=list(value.shape), expected=f"{list(shape)} (-1 is any size)"
        )
    return value if value.shape == target else padded(value, target)


def padded(value: npt.NDArray[np.generic], shape: tuple[int, ...]) -> Array:
    """Return a copy of a value in the first corner of zeros of a larger shape."""
    zeros = np.zeros(shape, value.dtype)
    zeros[tuple(slice(size) for size in value.shape)] = value
    return zeros


def check_tensors(kind: Literal["input", "output"], found: Collection[str], bindings: tuple[Binding, ...]) -> None:
    """Check that a file has the tensors that bindings name and, as inputs, no others.

    Args:
        kind: of the tensors.
        found: names in the file.
        bindings: of the manifest.

    Raises:
        BackendError: if it does not.
    """
    named = {binding.tensor for binding in bindings}
    if named - set(found) or (kind == "input" and set(found) - named):
        raise BackendError(
            f"the {kind}s of a stage file do not match the manifest",
            got=", ".join(sorted(found)) or "none",
            expected=", ".join(sorted(named)),
        )


class OutputPorts:
    """Gives results their ports, and holds them against the bindings: a hostile file may answer with anything."""

    def __init__(self, bindings: tuple[Binding, ...]) -> None:
        self._plan = [(b.port, np.dtype(b.dtype), b.shape) for b in bindings]
        self.ports = [binding.port for binding in bindings]

    def named(self, results: Sequence[object]) -> dict[str, Array]:
        """Return the results by port, in the order of the bindings.

        Raises:
            BackendError: if one is no array of its binding's type and shape (sizes of -1 take anything).
        """
        named: dict[str, Array] = {}
        for (port, dtype, shape), value in zip(self._plan, results, strict=True):
            if not (isinstance(value, np.ndarray) and value.dtype == dtype) or not (
                value.shape == shape or _within(value.shape, shape)
            ):
                found = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
                raise BackendError(
                    f"the output '{port}' of a stage is not what the manifest says",
                    got=found,
                    expected=f"{dtype} {list(shape)} (-1 is any size)",
                    fix="compile the bundle again",
                )
            named[port] = value
        return named


def _within(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(found) == len(shape) and all(wanted in (-1, size) for size, wanted in zip(found, shape, strict=True))


def versions_of(backends: Iterable[Backend]) -> dict[str, str]:
    """Return the versions of several runtimes, by distribution name."""
    return {name: text for backend in backends for name, text in backend.versions().items()}
