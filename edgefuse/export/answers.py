"""Hold a file to torch as soon as it is made: it opens in its runtime, runs, and answers alike at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from edgefuse.bundle.manifest import Tolerance
from edgefuse.errors import BackendError, DisagreementError, ExportError, cited
from edgefuse.export.target import Lowered
from edgefuse.measure.agreement import agreement, at_true_size
from edgefuse.runtime.backends.backend import Backend, Session, SessionOptions
from edgefuse.stages.agreement import finite_answer, spelled, verify
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.padding import Dependence, may_be_padded
from edgefuse.stages.silence import quiet
from edgefuse.stages.stage import Feeds, TorchStage

_FEEDS = 2
_SIZES = 4


def check_answers(
    stage: TorchStage,
    lowered: Lowered,
    backend: Backend,
    title: str,
    meant: Callable[[str], tuple[str, ...]] = lambda _: (),
    more: Iterable[Feeds] = (),
) -> None:
    """Open a file and compare its answers with torch's.

    Args:
        stage: that it was made of.
        lowered: the file.
        backend: that opens it.
        title: of its format, for errors.
        meant: names the operators of the stage that a runtime's words mean.
        more: feeds to compare at, after the usual ones.

    Raises:
        DisagreementError: if its answers differ from torch's.
        ExportError: if the runtime refuses the file or cannot run it, or torch's own answer is not finite.
        ModelError: if torch itself fails at a size.
    """
    where = f"the {title} file of the stage '{stage.spec.name}'"
    try:
        session = _opened(lowered, backend)
    except BackendError as error:
        raise ExportError(
            f"{where} cannot be opened",
            got=_said(error, meant),
            fix=f"replace the operator that {backend.title} lacks, or leave this target out of the recipe",
        ) from error
    usual = example_feeds(stage, count=_SIZES if may_be_padded(stage.spec) else _FEEDS)
    for feeds in chain(usual, more):
        shapes, expected = spelled(feeds), finite_answer(stage, feeds, ExportError)
        try:
            found = agreement([(expected, at_true_size(session.run(feeds), expected))], Tolerance())
        except BackendError as error:
            raise ExportError(
                f"{where} cannot be run",
                got=f"{_said(error, meant)}, at {shapes}",
                fix="give every output one shape, whatever the values of the inputs",
            ) from error
        if not found.ok:
            raise DisagreementError(
                f"{where} does not answer like {stage.reference}",
                got=f"{found.reason}, at {shapes}",
                shapes={name: value.shape for name, value in feeds.items()},
                fix="report this with the model; until then, leave this target out of the recipe",
            )


def answers_at(stage: TorchStage, lowered: Lowered, backend: Backend, feeds: Feeds) -> bool:
    """Tell whether a file answers like torch to some feeds.

    Args:
        stage: that it was made of.
        lowered: the file.
        backend: that opens it.
        feeds: to answer.
    """
    try:
        return verify(stage, _opened(lowered, backend), feeds, Tolerance()).ok
    except BackendError:
        return False


def _opened(lowered: Lowered, backend: Backend) -> Session:
    with quiet():  # a runtime may greet on the standard error when it is first used
        return backend.open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())


def padding_matters(dependence: Dependence, title: str) -> ExportError:
    """Return why a stage that depends on padding has no file of fixed shapes.

    Args:
        dependence: what was measured.
        title: of the format.
    """
    return ExportError(
        f"the stage '{dependence.stage}' depends on padding, and {title} files have fixed shapes",
        got=str(dependence),
        expected="the same answer for padded inputs as at their true size",
        fix="mask what lies behind 'length' in means and attention (docs/recurrent.md), fix the size in the spec, or "
        "leave this target out of the recipe",
    )


def _said(error: BackendError, meant: Callable[[str], tuple[str, ...]]) -> str:
    """Return a runtime's words behind the operators that they may mean."""
    names = " or ".join(meant(str(error)))
    return f"{names}: {cited(error)}" if names else cited(error)
